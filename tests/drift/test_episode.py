import math

import pytest
from helpers.noises import gaussian
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.drift.detectors import Cusum
from logitwatch.drift.episode import Episode, Level
from logitwatch.drift.verdict import Verdict

scores = st.lists(st.sampled_from([0.0, 0.4, 0.6, 0.99, 1.0, 1.4, 1.5, 2.0, math.inf]), max_size=40)


def told(episode: Episode, values: list[float]) -> list[Level | None]:
    return [episode.told(Verdict(score >= 1, score, None)) for score in values]


def test_an_alarm_that_flickers_is_told_once() -> None:
    assert told(Episode(cooldown=3), [1.1, 0.9, 1.1, 0.1, 0.1, 1.1, 0.6, 1.2]) == ["warning"] + [None] * 7


def test_an_alarm_after_the_cooldown_is_a_new_one() -> None:
    assert told(Episode(cooldown=3), [1.1, 0.1, 0.1, 0.1, 1.1]) == ["warning", None, None, None, "warning"]


def test_what_is_not_finite_is_critical_at_once_and_told_once() -> None:
    assert told(Episode(), [math.inf, math.inf, 1.0]) == ["critical", None, None]


@given(scores)
def test_an_episode_is_told_at_most_twice_and_rising(values: list[float]) -> None:
    episode = Episode(cooldown=41)
    spoken = [level for level in told(episode, values) if level]
    assert spoken in ([], ["warning"], ["critical"], ["warning", "critical"])
    assert episode.is_open == any(score >= 1 for score in values)


@given(scores, st.integers(0, 40))
def test_an_episode_resumes_exactly(values: list[float], cut: int) -> None:
    parted = Episode(cooldown=3)
    first = told(parted, values[:cut])
    again = Episode(cooldown=3)
    again.load_state_dict(parted.state_dict())
    assert first + told(again, values[cut:]) == told(Episode(cooldown=3), values)


def test_a_spike_and_a_later_one_are_two_episodes_of_a_detector() -> None:
    values = [x + 20 * (1000 <= i < 1010 or 1400 <= i < 1410) for i, x in enumerate(gaussian(1800, 0))]
    detector, episode = Cusum(), Episode()
    begun = [i for i, x in enumerate(values) if episode.told(detector.update(x)) and not 1001 < i < 1010]
    assert 1000 <= begun[0] < 1003
    assert any(1400 <= i < 1403 for i in begun)
    assert not episode.is_open


@pytest.mark.parametrize("options", [{"quiet": 1.0}, {"quiet": 0.0}, {"critical": 0.9}, {"cooldown": 0}])
def test_bad_arguments_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        Episode(**options)  # type: ignore[arg-type]
