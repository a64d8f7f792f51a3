"""What a notebook shows beside plain text."""


def show(text: str, html: str) -> None:
    print(text)
