"""The report: one self-contained HTML page that shows what was kept and why, and re-judges clips in the browser."""

from curation.report import facts, page, pictures
from curation.report.rows import read_rows
from curation.report.settings import read_settings
from dataset.tables import write_atomically


def write_report(dataset: str) -> str:
    """Write DATASET/report/index.html from whatever tables are there; returns its path."""
    dataset = dataset.rstrip("/")
    settings = read_settings(dataset)
    rows = read_rows(dataset, [f.name() for f in settings.chain])
    shown = facts.collect(dataset, rows, settings)
    html = page.render(shown, rows, settings.rules(rows.order), pictures.embed(dataset, rows, settings))
    write_atomically(dataset, "report/index.html", html.encode())
    return f"{dataset}/report/index.html"
