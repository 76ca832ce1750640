"""The section of the report on what gave the scores, and how far it can be trusted."""

from __future__ import annotations

from html import escape

from paretune.fronts.record import FrontRecord
from paretune.fronts.record_facts import Asked, ScorerFacts
from paretune.reports.page import section, table
from paretune.reports.wording import NOTHING, percent


def judged_by(record: FrontRecord) -> str:
    """Return the table of fitted heads with their accuracy; nothing where no objective is scored by one."""
    fitted = {objective: facts for objective, facts in record.scorers.items() if facts.accuracy is not None}
    if not fitted:
        return ""
    columns = [
        "objective",
        "right on held-out pairs",
        "held-out pairs / prompts",
        "right on its training pairs",
        "longer response",
        "fitted on held-out prompts of this run",
    ]
    rows = [[escape(objective), *_cells(facts, record)] for objective, facts in fitted.items()]
    return section(
        "judge",
        "Can the judge be trusted?",
        table(columns, rows, range(1, len(columns))),
        "A fitted head gives these scores. Right is the share of pairs that it ranks as people did: on pairs that it never saw, "
        "with the 95 % interval, and on those it was fitted on. One that is right far more often on these knows them by heart. "
        "Preferring the longer response is what it has to beat. A head that was fitted on prompts of this run is too sure of them.",
    )


def _cells(facts: ScorerFacts, record: FrontRecord) -> list[str]:
    right = facts.accuracy
    shown = (
        NOTHING
        if right is None
        else f"{percent(right.value)}<small>[{percent(right.low)}, {percent(right.high)}]</small>"
    )
    seen = (
        f"{facts.seen} of {record.num_prompts}" if facts.seen is not None else "not known: fit the head again"
    )
    return [
        shown,
        f"{facts.pairs} / {facts.prompts}",
        percent(facts.train_accuracy),
        percent(facts.longer_accuracy),
        f'<span class="flag">⚠ {seen}</span>' if facts.seen else seen,
    ]


def asked_of(record: FrontRecord) -> str:
    """Return the table of the judges and servers that gave scores, what they were asked and where they failed; or nothing."""
    asked = {objective: facts.asked for objective, facts in record.scorers.items() if facts.asked is not None}
    if not asked:
        return ""
    columns = [
        "objective",
        "judge",
        "asked / from the cache",
        "without a result",
        "changed by the order of the answers",
        "tokens read / written",
        "cost",
    ]
    rows = [[escape(objective), *_asked_cells(each)] for objective, each in asked.items()]
    return section(
        "asked",
        "Who judged?",
        table(columns, rows, range(2, len(columns))),
        "A model gave these scores by a rubric, or a server did. An answer without a result could not be read, or was refused; it "
        "is never a score. A pair is compared in both orders, and a verdict that changes with the order is no preference. Tokens "
        "and cost are those of the answers that were asked for, as the judge counts them.",
    )


def _asked_cells(asked: Asked) -> list[str]:
    failed = asked.unread + asked.refused
    turned = f"{asked.turned} of {asked.compared} pairs" if asked.compared else NOTHING
    tokens = (
        f"{asked.input_tokens:,} / {asked.output_tokens:,}"
        if asked.input_tokens or asked.output_tokens
        else NOTHING
    )
    return [
        escape(asked.judge),
        f"{asked.asked:,} / {asked.kept:,}",
        f'<span class="flag">⚠ {failed:,}</span>' if failed else "0",
        turned,
        tokens,
        NOTHING if asked.money is None else f"{asked.money:,.2f} {escape(asked.currency)}",
    ]
