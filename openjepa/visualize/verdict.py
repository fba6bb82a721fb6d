"""The two answers a reader wants first: is the run healthy, and did it learn? In words, with what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openjepa.visualize.metrics import Metrics, finite
from openjepa.visualize.scores import TITLES, Entry, compare
from openjepa.visualize.words import percent

GOOD, WARN, BAD, UNKNOWN = "good", "warn", "bad", "unknown"
CLEAR = 0.95  # the loss has to be below this share of the best cheat's to count as better: panels jitter by 1 to 2 %


@dataclass(frozen=True)
class Verdict:
    """tone: good, warn, bad or unknown; headline: a few words; reason, advice: a sentence or two, or empty."""

    tone: str
    headline: str
    reason: str
    advice: str = ""


def health(metrics: Metrics) -> Verdict:
    """What the newest health panel says, with its advice."""
    said = metrics.last("health.verdict")
    if not isinstance(said, str) or not said.strip():
        return Verdict(UNKNOWN, "Not measured", "No health panel was written, so nothing can be said about collapse.")
    head, _, rest = said.partition(":")
    name = head.partition(";")[0].strip().lower()
    tone = BAD if name in ("collapse", "diverging") else GOOD if name == "healthy" else WARN
    if name in ("warming up", "not judged"):
        tone = UNKNOWN
    reason, _, advice = (rest or head.partition(";")[2]).strip().partition("; try ")
    if tone == GOOD and not reason:
        reason = (
            "Features differ between images, use many directions, and the predictor beats every cheat."
            if metrics.last("health.cheats")
            else "Features differ between images and use many directions; this method has no cheats to compare with."
        )
    return Verdict(tone, name.capitalize(), _sentence(reason), _stop(advice))


def learning(metrics: Metrics, entries: Sequence[Entry]) -> Verdict:
    """Did the encoder learn? From the scores against a random encoder and against what needs no encoder (raw pixels; of
    clips also differences between frames); without them from the probes, and without those from the prediction loss
    against the cheats.
    """
    chance = compare(entries, "random")
    if chance:
        others = {name: compare(entries, role) for role, name in _NO_ENCODER.items()}
        return _from_scores(chance, {name: found for name, found in others.items() if found})
    probes = _from_probes(metrics)
    return probes or _from_cheats(metrics)


_NO_ENCODER = {"pixels": "raw pixels", "differences": "frame differences"}


def _from_scores(chance: dict[str, str], others: dict[str, dict[str, str]]) -> Verdict:
    """From the verdicts against a random encoder, and against each baseline that needs none, by metric."""
    alike = [name for name, found in others.items() if found == chance]
    who = ["a random encoder", *alike]
    also = "and" if set(chance.values()) == {"better"} else "or"
    said = [_against(f" {also} ".join(who), chance)]
    said += [_against(name, found) for name, found in others.items() if name not in alike]
    against = " ".join(said)
    if all(v == "better" for v in chance.values()):
        if any("better" not in found.values() for found in others.values()):
            return Verdict(WARN, "Learned something", against, "a longer run or more data.")
        return Verdict(GOOD, "It learned", against)
    if "better" in chance.values():
        return Verdict(WARN, "Learned something", against)
    return Verdict(BAD, "Did not learn", against, "a longer run; the curves below show what it lacked.")


def _against(who: str, verdicts: dict[str, str]) -> str:
    """``Clearly better than raw pixels in kNN, not clearly better in linear probe.``"""
    phrases = {"better": "clearly better", "within": "not clearly better", "worse": "worse"}
    parts: list[str] = []
    for verdict, phrase in phrases.items():
        metrics = [TITLES.get(m, m) for m, v in verdicts.items() if v == verdict]
        if metrics:
            parts.append(f"{phrase}{'' if parts else f' than {who}'} in {' and '.join(metrics)}")
    return _sentence(", ".join(parts))


def _from_probes(metrics: Metrics) -> Verdict | None:
    for probe, title in TITLES.items():
        steps, values = metrics.series(f"probes.{probe}")
        if len(values) >= 2:
            first, last = values[0], values[-1]
            start, end = (f"{percent(v, 1)} at step {s:,}" for v, s in ((first, steps[0]), (last, steps[-1])))
            said = f"The {title} score went from {start} to {end}"
            if last - first > 0.02:
                return Verdict(GOOD, "It is learning", f"{said}. No final scores were written to compare with.")
            return Verdict(WARN, "Not visible yet", f"{said}: less than two points gained.")
    return None


def _from_cheats(metrics: Metrics) -> Verdict:
    loss = finite(metrics.last("health.loss_on_panel"))
    cheats = metrics.last("health.cheats")
    known = {k: finite(v) for k, v in cheats.items()} if isinstance(cheats, dict) else {}
    values = {k: v for k, v in known.items() if v is not None}
    if loss is None or not values:
        said = "There are no scores, and this run has no prediction to compare with cheats."
        return Verdict(UNKNOWN, "Not measured", said, "openjepa evaluate on a labelled folder.")
    name, best = min(values.items(), key=lambda item: item[1])
    cheat = name.replace("_", " ")
    without = "There are no scores on labels, so this is judged by the prediction task alone."
    if health(metrics).tone == BAD:
        ill = "Targets of a collapsed or diverging encoder are easy to predict, so the prediction task proves nothing."
        return Verdict(WARN, "Cannot be told", f"{ill} {without}")
    if loss < CLEAR * best:
        less = 1 - loss / best
        return Verdict(
            GOOD, "It predicts", f"Its predictions err {percent(less)} less than the best cheat ({cheat}). {without}"
        )
    said = f"Its predictions are no better than the best cheat ({cheat}: {best:.3g} against {loss:.3g})."
    return Verdict(WARN, "Not visible yet", f"{said} {without}")


def _sentence(text: str) -> str:
    """Capital first letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + _stop(text[1:])


def _stop(text: str) -> str:
    """Text with a full stop, unless it is empty or ends a sentence already."""
    return text + ("" if not text or text[-1] in ".!?" else ".")
