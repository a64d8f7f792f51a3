"""A row of buttons with what is said of the one that is clicked, for the exercises that are choices."""

from collections.abc import Callable

from fmlib import _rich
from fmlib.exercises import _wording


def show(options: dict[str, str], respond: Callable[[str], str], text: str, html: str) -> None:
    """Display a button for each letter of `options`, and below them respond(letter), HTML, once one is clicked.

    text, html: what stands in their place where there are no widgets, such as on a printed page.
    All that is shown is the widgets' own state, so a saved notebook shows it again.
    """
    shell = _rich.shell()
    try:
        import ipywidgets
    except ImportError:
        shell = None
    if shell is None:
        _rich.show(text, html)
        return
    feedback = ipywidgets.HTMLMath()
    buttons = [
        ipywidgets.Button(description=letter, tooltip=f"{letter}: {option.replace('$', '')}", layout={"width": "4em"})
        for letter, option in options.items()
    ]

    def clicked(chosen: ipywidgets.Button) -> None:
        for button in buttons:
            button.button_style = "info" if button is chosen else ""
        try:
            feedback.value = respond(chosen.description)
        except Exception as error:  # it would vanish in the browser's log
            reason = f"This click could not be answered ({_wording.error_text(error)}). Click once more."
            feedback.value = _wording.boxed("Error", _wording.RED, _wording.marked_up(reason))

    for button in buttons:
        button.on_click(clicked)
    bundle = ipywidgets.VBox([ipywidgets.HBox(buttons), feedback])._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    shell.display_pub.publish({**data, "text/plain": text, "text/html": html})
