"""The page of `spinalnet demo RUN`: `demo`, drawn by Gradio (extra `demo`).

It is served to 127.0.0.1 alone, and nothing is shared or sent anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from spinalnet._checks import SpinalnetError, missing_gradio
from spinalnet.comparison.tables.columns import Tell
from spinalnet.comparison.wording import as_plain_markdown
from spinalnet.deploy.demo import SHOWN, Answer, ImageDemo, TableDemo, demo_of


def interface(run: str | Path, tell: Tell | None = None) -> Any:
    """Build the page; its `launch` serves it.

    Args:
        run: See `demo_of`.
        tell: See `demo_of`.

    Raises:
        InputError: If there is no finished run, or Gradio is missing.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        gradio = import_module("gradio")
    except ImportError as error:
        raise missing_gradio() from error
    demo = demo_of(run, tell)
    with gradio.Blocks(title=f"spinalnet: {run}", analytics_enabled=False) as page:
        gradio.Markdown(f"# {as_plain_markdown(f'{Path(run).name}: {demo.title}')}")
        if isinstance(demo, ImageDemo):
            _image_page(gradio, demo)
        else:
            _table_page(gradio, demo, page)
    return page


def serve(page: Any, *, port: int | None = None, browser: bool = True, block: bool = True) -> str:
    """Serve a page on this machine alone, and return its address.

    Args:
        page: What `interface` returned.
        port: Where; without it the first free one from 7860 on.
        browser: Whether to open it there.
        block: Whether to return only when it is interrupted.
    """
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
    )
    if block:
        page.block_thread()
    return address


def _image_page(gradio: Any, demo: ImageDemo) -> None:
    """Lay out the page of a model of images."""
    with gradio.Row():
        with gradio.Column():
            with gradio.Tab("Drop"):
                dropped = gradio.Image(type="pil", sources=["upload", "clipboard"], label="image")
                asked = gradio.Button("Ask", variant="primary")
            with gradio.Tab("Draw"):
                drawn = gradio.Sketchpad(type="pil", label="drawing", canvas_size=(280, 280))
                asked_drawn = gradio.Button("Ask", variant="primary")
        with gradio.Column():
            said = _said(gradio, demo.info.task)
            what = "which layer spoke for which class"
            shares = gradio.Dataframe(headers=["layer", "slice"], label=what, interactive=False)
    near = gradio.Gallery(label="nearest mistakes among validation images", columns=SHOWN)

    def shown(answer: Answer) -> tuple[Any, ...]:
        return answer.value or answer.probabilities, _frame(answer), answer.mistakes

    def of_dropped(picture: Any) -> tuple[Any, ...]:
        return shown(_asking(gradio, demo.ask, picture))

    def of_drawn(layers: Any) -> tuple[Any, ...]:
        picture = layers.get("composite") if isinstance(layers, dict) else layers
        return shown(_asking(gradio, demo.ask, picture, drawn=True))

    outputs = [said, shares, near]
    asked.click(of_dropped, dropped, outputs, api_name="ask")
    dropped.upload(of_dropped, dropped, outputs, api_name=False)
    asked_drawn.click(of_drawn, drawn, outputs, api_name=False)


def _table_page(gradio: Any, demo: TableDemo, page: Any) -> None:
    """Lay out the page of the model of a table."""
    inputs = []
    with gradio.Row():
        with gradio.Column():
            for column, name, value in zip(demo.columns, demo.names, demo.start(), strict=True):
                if column.kind == "number":
                    inputs.append(gradio.Number(value=value, label=name))
                elif column.levels:
                    levels = list(column.levels)
                    value = None if value is None else str(value)
                    more = {"allow_custom_value": True}
                    inputs.append(gradio.Dropdown(levels, value=value, label=name, **more))
                elif column.kind == "boolean":
                    inputs.append(gradio.Checkbox(value=bool(value), label=name))
                else:
                    text = None if value is None else str(value)
                    inputs.append(gradio.Textbox(value=text, label=name))
            asked = gradio.Button("Ask", variant="primary")
        with gradio.Column():
            said = _said(gradio, demo.model.task)
            shares = gradio.Dataframe(label="which column spoke for it", interactive=False)
    near = gradio.Dataframe(label="nearest mistakes among test rows", interactive=False)

    def answered(*values: Any) -> tuple[Any, ...]:
        answer = _asking(gradio, demo.ask, *values)
        header, *rows = answer.mistaken_rows or [[]]
        mistakes = {"headers": header, "data": rows}
        return answer.value or answer.probabilities, _frame(answer), mistakes

    outputs = [said, shares, near]
    asked.click(answered, inputs, outputs, api_name="ask")
    page.load(answered, inputs, outputs, api_name=False)


def _said(gradio: Any, task: str) -> Any:
    if task == "regression":
        return gradio.Textbox(label="value", interactive=False)
    return gradio.Label(label="class", num_top_classes=SHOWN)


def _frame(answer: Answer) -> dict[str, Any]:
    return {"headers": list(answer.shares_of), "data": answer.shares}


def _asking(gradio: Any, ask: Callable[..., Answer], *values: Any, **more: Any) -> Answer:
    """Ask; what the user can mend is shown on the page."""
    try:
        return ask(*values, **more)
    except SpinalnetError as error:
        raise gradio.Error(str(error)) from error
