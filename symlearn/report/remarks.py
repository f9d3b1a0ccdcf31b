"""What else is to be said of a run beside its verdict, a sentence each.

Ranges of transformations, what was taken back, from how many images and of what curvature the evidence is.
"""

from symlearn.report.reading import Report
from symlearn.report.sentence import sample_sentence, setbacks_sentence, without_verdict


def ranges_sentence(report: Report) -> str | None:
    """Say which transformed images count as the same.

    Returns:
        For example "Images count as the same when turned by up to ±43.0°; the evidence chose the range.";
        None where nothing is averaged, or the network learned nothing.
    """
    ranges = report.get("ranges") or []
    if not ranges or without_verdict(report):
        return None
    used = [str(entry["words"]) for entry in ranges if not entry["at_lowest"]]
    unused = [str(entry["words"]).removeprefix("not ") for entry in ranges if entry["at_lowest"]]
    said = (
        f"Images count as the same when {_and(used)}" if used else "No transformed image counts as the same"
    )
    none = f", not when {_or(unused)}" if used and unused else f" ({_or(unused)})" if unused else ""
    several = "s" if len(ranges) > 1 else ""
    how = "the evidence chose" if all(entry["learned"] for entry in ranges) else "as configured, not learned:"
    return f"{said}{none}; {how} the range{several}."


def curvature_sentence(report: Report) -> str | None:
    """Say where the evidence is of the whole GGN; None where it is of blocks, as of larger sets."""
    if report.get("ggn") != "whole" or report.get("log_marginal_likelihood") is None:
        return None
    columns = report.get("ggn_columns")
    drawn = f" ({columns} random mixtures of each image's rows stand for all)" if columns else ""
    return (
        f"The evidence is of the whole GGN{drawn}, since {report['train_examples']:,} images are few; that "
        "of larger sets is of its blocks, and not to be compared with it."
    )


def remarks(report: Report) -> list[str]:
    """All of them, in order."""
    every = (
        ranges_sentence(report),
        setbacks_sentence(report),
        sample_sentence(report),
        curvature_sentence(report),
    )
    return [said for said in every if said is not None]


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
