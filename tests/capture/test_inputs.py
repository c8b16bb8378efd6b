import pytest
import torch

from logitwatch.capture.inputs import class_axis, mask_rows, plain, real_numbers, target_rows


class Tagged(torch.Tensor):
    """A subclass whose operators cost: each is counted."""

    asked = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.asked += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_subclass_is_left_behind_without_running_its_code():
    z = torch.ones(2, 3).as_subclass(Tagged)
    Tagged.asked = 0
    found = plain(z, "logits")
    assert type(found) is torch.Tensor
    assert Tagged.asked == 0
    assert found.untyped_storage().data_ptr() == torch.Tensor.untyped_storage(z).data_ptr()


def test_a_parameter_is_a_plain_tensor_without_gradients():
    found = plain(torch.nn.Parameter(torch.ones(2)), "logits")
    assert type(found) is torch.Tensor
    assert not found.requires_grad


def test_a_dense_tensor_is_not_copied():
    z = torch.ones(2, 3)
    assert plain(z, "logits").data_ptr() == z.data_ptr()
    assert real_numbers(z, "logits") is z


@pytest.mark.parametrize("x", [None, 3.0, [1.0], "logits"])
def test_what_is_no_tensor_is_named_with_what_it_is(x):
    with pytest.raises(TypeError, match=f"^mask must be a tensor, got {type(x).__name__}$"):
        plain(x, "mask")


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_what_torch_can_only_store_is_lifted_exactly(dtype):
    x = torch.tensor([0.0, 1.0, 3.5, 448.0]).to(dtype)
    found = real_numbers(x, "logits")
    assert torch.equal(found.double(), x.double())
    assert (found + found).double().tolist() == (2 * x.double()).tolist()


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.complex128])
def test_truth_values_and_complex_numbers_are_no_real_numbers(dtype):
    with pytest.raises(TypeError, match=f"^logits must be real numbers, got {dtype}$"):
        real_numbers(torch.ones(2).to(dtype), "logits")


def test_the_class_axis_is_counted_from_the_front():
    assert [class_axis(torch.Size((2, 3, 4)), dim) for dim in (-3, -1, 0, 2)] == [0, 2, 0, 2]


@pytest.mark.parametrize("dim", [-3, 2, 5])
def test_an_axis_that_is_not_there_is_refused(dim):
    with pytest.raises(ValueError, match=rf"classes on axis {dim}, got shape \(8, 10\)"):
        class_axis(torch.Size((8, 10)), dim)


LOGITS = torch.zeros(2, 3, 5)


@pytest.mark.parametrize("shape", [(2, 3), (6,), (2, 3, 1), (1, 2, 3)])
def test_indices_may_be_flat_and_have_axes_of_length_one(shape):
    y = torch.arange(6) % 5
    assert torch.equal(target_rows(y.view(shape), LOGITS, 2), y)
    assert mask_rows((y > 2).view(shape), LOGITS, torch.Size((2, 3))).tolist() == (y > 2).tolist()


@pytest.mark.parametrize("shape", [(3, 2), (5,), (), (2, 3, 2), (2, 5, 3), (0,)])
def test_targets_and_masks_of_other_places_are_refused(shape):
    with pytest.raises(ValueError, match="targets must be class indices of shape"):
        target_rows(torch.zeros(shape, dtype=torch.long), LOGITS, 2)
    with pytest.raises(ValueError, match=r"mask must be of shape \(2, 3\), got shape"):
        mask_rows(torch.ones(shape, dtype=torch.bool), LOGITS, torch.Size((2, 3)))


def test_as_many_targets_as_there_are_none_are_still_of_other_places():
    with pytest.raises(ValueError, match="got shape"):
        target_rows(torch.zeros(0, 7, dtype=torch.long), torch.zeros(0, 3, 5), 2)


def test_targets_and_masks_on_another_device_are_refused():
    elsewhere = torch.ones(2, 3, dtype=torch.long, device="meta")
    with pytest.raises(ValueError, match="targets must be on cpu as the logits are, got meta"):
        target_rows(elsewhere, LOGITS, 2)
    with pytest.raises(ValueError, match="mask must be on cpu as the logits are, got meta"):
        mask_rows(elsewhere, LOGITS, torch.Size((2, 3)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_probabilities_are_brought_to_rows(axis):
    q = torch.arange(30.0).view(2, 3, 5).movedim(2, axis)
    assert torch.equal(target_rows(q, torch.zeros(q.shape), axis), torch.arange(30.0).view(6, 5))
    assert torch.equal(target_rows(q.long(), torch.zeros(q.shape), axis), torch.arange(30).view(6, 5))


def test_with_one_class_whole_numbers_are_indices_and_others_probabilities():
    assert target_rows(torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 1), 1).shape == (4,)
    assert target_rows(torch.ones(4, 1), torch.zeros(4, 1), 1).shape == (4, 1)


def test_indices_that_are_not_whole_are_refused():
    with pytest.raises(TypeError, match=r"must be class indices, integers, got torch\.float32"):
        target_rows(torch.zeros(2, 3), LOGITS, 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.uint16, torch.uint64, torch.bool])
def test_indices_become_int64(dtype):
    found = target_rows(torch.tensor([[0, 1, 1], [0, 0, 1]]).to(dtype), LOGITS, 2)
    assert found.dtype == torch.int64
    assert found.tolist() == [0, 1, 1, 0, 0, 1]


def test_targets_of_yes_or_no_logits_are_one_an_element():
    y = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target_rows(y, torch.zeros(2, 3), None), y.view(-1))
    with pytest.raises(ValueError, match=r"targets must be of shape \(2, 3\), got shape \(2,\)"):
        target_rows(y[:, 0], torch.zeros(2, 3), None)
