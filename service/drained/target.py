"""Where the tables stand: a folder, or a URL that the table library writes to by itself (s3://, gs://, …)."""

from pathlib import Path

import polars as pl

from model.files import replacing


class Target:
    """`root`: a path or a URL."""

    def __init__(self, root: str):
        self.root = root.rstrip("/")
        self.is_url = "://" in root

    def write(self, frame: pl.DataFrame, name: str) -> None:
        """The file `name`, whole or not at all; what stood there goes. Raises OSError, polars' errors."""
        if self.is_url:
            frame.write_parquet(f"{self.root}/{name}")  # an upload is seen when it is complete
            return
        path = Path(self.root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as partial:
            frame.write_parquet(partial)

    def remove(self, name: str, schema: pl.Schema) -> None:
        """No row of the file stays. An object that is there stays without rows: nobody can remove one here."""
        if not self.is_url:
            (Path(self.root) / name).unlink(missing_ok=True)
        elif name in self.names(name.partition("/")[0]):
            self.write(pl.DataFrame(schema=schema), name)

    def names(self, table: str) -> list[str]:
        """The files of a table, by name."""
        if not self.is_url:
            root = Path(self.root)
            return sorted(
                str(path.relative_to(root)) for path in (root / table).rglob("*.parquet") if not _hidden(path)
            )
        pattern = f"{self.root}/{table}/**/*.parquet"
        try:
            scan = pl.scan_parquet(pattern, hive_partitioning=False, include_file_paths="file")
            found = scan.select(pl.col("file").unique()).collect()["file"].to_list()
        except (OSError, pl.exceptions.PolarsError) as error:
            if "expanded paths were empty" in str(error):
                return []
            raise
        return sorted(f"{table}/{name.partition(f'/{table}/')[2]}" for name in found)

    def scan(self, name: str) -> pl.LazyFrame:
        return pl.scan_parquet(f"{self.root}/{name}", hive_partitioning=False)


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")  # one that a killed drain was writing
