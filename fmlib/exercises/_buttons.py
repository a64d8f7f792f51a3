"""A row of buttons with what is said of the one that is clicked, for the exercises that are choices.

The buttons are a widget, and what is said is an output of its own below them, which each click replaces. So a saved
notebook shows what was said when it is opened again, whatever has become of the widget.
"""

import uuid
from collections.abc import Callable

from fmlib import _rich
from fmlib.exercises import _wording

# JupyterLab writes "model not found" for buttons without a kernel: they are left out.
STYLE = """<style>.jp-OutputArea-child:has(> .jupyter-widgets):not(:has(.fmlib-buttons)):has(+ .jp-OutputArea-child
.fmlib-feedback) { display: none; }</style>"""


def show(options: dict[str, str], respond: Callable[[str], tuple[str, str]], text: str, html: str) -> None:
    """Display a button for each letter of `options`, and below them `text` as `html`.

    A click puts respond(letter), a text and its HTML, in their place. Where there are no widgets, only they are shown.
    """
    shell = _rich.shell()
    try:
        import ipywidgets
    except ImportError:
        shell = None
    if shell is None:
        _rich.show(text, html)
        return
    buttons = [
        ipywidgets.Button(description=letter, tooltip=f"{letter}: {option.replace('$', '')}", layout={"width": "4em"})
        for letter, option in options.items()
    ]
    place = {"display_id": uuid.uuid4().hex}

    def say(text: str, html: str, update: bool = True) -> None:
        data = {"text/plain": text, "text/html": f'{STYLE}<div class="fmlib-feedback">{html}</div>'}
        shell.display_pub.publish(data, transient=place, update=update)

    def clicked(chosen: ipywidgets.Button) -> None:
        for button in buttons:
            button.button_style = "info" if button is chosen else ""
        try:
            say(*respond(chosen.description))
        except Exception as error:  # it would vanish in the browser's log
            reason = f"This click could not be answered ({_wording.error_text(error)}). Click once more."
            say(reason, _wording.boxed("Error", _wording.RED, _wording.marked_up(reason)))

    for button in buttons:
        button.on_click(clicked)
    row = ipywidgets.HBox(buttons)
    row.add_class("fmlib-buttons")
    bundle = row._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    shell.display_pub.publish({**data, "text/plain": ""})  # not the widget's source, where no button can be shown
    say(text, html, update=False)
