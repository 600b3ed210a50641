"""`surefoot export`: a recorded run as a table for other programs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="Where to write it; the ending says what: .csv or .parquet.",
)
@click.option("--force", is_flag=True, help="Replace the file if it is there already.")
def export_command(run: Path, output: Path, force: bool) -> None:
    """Write every number of a recorded run into one long table, as CSV or Parquet.

    Each row is one number: training, step, quantity, layer and parameter, with the lowest, highest
    and last value of its bucket. Parquet needs pip install 'surefoot[export]'.
    """
    from surefoot.integrations.export import KINDS, export
    from surefoot.record import RecordError

    if output.suffix.lower() not in KINDS:
        raise click.BadParameter(
            f"expected a file that ends in {' or '.join(KINDS)}, got {str(output)!r}",
            param_hint="'-o'",
        )
    try:
        count = export(run, output, force)
    except (RecordError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from None
    except FileExistsError as error:
        raise click.ClickException(f"{error}. Next: another name, or --force") from None
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror or error}") from None
    click.echo(f"{output}: {count:,} rows")
