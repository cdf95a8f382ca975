"""Play one trace, word by word, and look at what came of it. The words: see `world`."""

from __future__ import annotations

from types import ModuleType

from oncebox import order

from .world import ACCEPTED, PLAIN, Producer, Record, Rig, Setup


class Story:
    """A trace that was played. Words beyond those of `world`:

    `accept:2` is accept with `after=2`; `>>` delivers the whole log once more, in any order.
    """

    def __init__(self, text: str, setup: Setup = PLAIN, rules: ModuleType = order) -> None:
        self.rig = Rig(setup, rules)
        self.producer = Producer()
        self.consumer = self.rig.consumer()
        self.said: list[str] = []
        """What was answered, in order: verdicts, doubts, and "refused" or "nothing" of commands."""
        self.play(text)

    def play(self, text: str) -> Story:
        """Go on with more words."""
        for word in text.split():
            if word == ">>":
                for record in sorted(self.producer.log, reverse=True):
                    self.deliver(record)
            elif word.startswith(">"):
                self.deliver(self.record(word[1:]))
            elif word.startswith("accept"):
                self.accept(int(word[7:]) if word[7:] else None)
            elif word == "prune":
                self.prune()
            elif word in ("redrive", "skip", "ask"):
                consumer = getattr(self.rig, word)(self.producer, self.consumer)
                self.said += ["nothing"] if consumer is None else []
                self.consumer = consumer or self.consumer
            else:
                producer = self.producer.act(word)
                assert producer is not None, f"the producer cannot {word}"
                self.producer = producer
        return self

    def record(self, name: str) -> Record:
        """A record by its name, also if no log has it any more."""
        form, _, id_ = name.rpartition(":")
        return Record(next(e for e in self.producer.made if e.id == id_), form)

    def deliver(self, record: Record) -> None:
        verdict, self.consumer = self.rig.deliver(self.producer, self.consumer, record)
        self.said.append(str(verdict))

    def accept(self, after: int | None) -> None:
        found = self.rig.accept(self.producer, self.consumer, after)
        if isinstance(found, str):
            self.said.append(found)
        else:
            self.producer, self.consumer = found

    def prune(self) -> None:
        found = self.rig.prune(self.producer, self.consumer)
        if found is None:
            self.said.append("refused")
        else:
            self.producer, self.consumer = found

    @property
    def effects(self) -> str:
        """The events that took effect, in order."""
        return " ".join(id_ for id_ in self.consumer.effects if id_ != ACCEPTED)

    @property
    def kept(self) -> str:
        return " ".join(("v:" if k.void else "") + k.id for k in self.consumer.state.kept)

    @property
    def park(self) -> str:
        return str(self.consumer.state.park or "")

    @property
    def gap(self) -> tuple[int, int] | None:
        return self.rig.rules.gap(self.consumer.state, self.consumer.floor)  # type: ignore[no-any-return]
