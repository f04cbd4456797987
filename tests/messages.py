"""An observer of trainings that keeps what was said."""

from __future__ import annotations

from medunet.training import Observer


class Messages(Observer):
    """Keeps the texts of all messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, text: str) -> None:
        """Called by the training."""
        self.texts.append(text)
