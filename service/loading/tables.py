"""Users from a prepared data set: DIR/tables/{users,behaviours}.parquet, each a file or a folder of parts."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from model.features import schema as features_toml
from model.features.behaviour import EARLIEST_MS, LATEST_MS, Behaviour, looks_like
from model.features.ids import IdType
from model.features.kinds import SchemaError
from model.features.schema import Schema
from service.loading.user import BackfillError, Fields, User, id_types

if TYPE_CHECKING:
    import polars as pl

SLICE_ROWS = 1_000_000  # rows of the tables in memory at once, about half a gigabyte


class Tables:
    """The tables of a prepared data set, their behaviours checked; `newest` is the time of the last one, or None.

    Fields, ids and their types are those of `schema`, by default the data set's own. Raises BackfillError.
    """

    def __init__(self, data: Path, schema: Schema | None = None):
        try:
            import polars  # noqa: F401
        except ImportError:
            raise BackfillError("reading tables needs polars: pip install 'bst-ranker[tables]'") from None
        self.schema = schema or _schema_of(data)
        self.fields = Fields(self.schema)
        self._users_at = data / "tables" / "users.parquet"
        self._behaviours_at = data / "tables" / "behaviours.parquet"
        self._users = self._open_users()
        self._behaviours, self.rows, self.newest = self._open_behaviours()

    def users(self, keep: int, slice_rows: int = SLICE_ROWS, shift_ms: int = 0) -> Generator[User, None, None]:
        """Each user once, with what is worth sending of each kind (format.newest), `slice_rows` rows in memory.

        `shift_ms` is added to every time.
        """
        import polars as pl

        moved = self._behaviours.with_columns(pl.col("timestamp") + shift_ms) if shift_ms else self._behaviours
        slices = 1 + (self.rows + self._users.select(pl.len()).collect().item()) // slice_rows
        found = 0
        with tqdm(total=self.rows, unit=" behaviours", unit_scale=True) as bar:
            for number in range(slices):
                # A slice has all rows of its users, or their newest could not be told. To find them the files are read
                # once a slice, which is cheaper than sorting them outside memory.
                in_slice = pl.col("user_id").hash(0) % slices == number
                histories = (
                    moved.filter(in_slice)
                    .collect(engine="streaming")
                    .group_by("user_id", *Behaviour._fields)
                    .len("rows")
                    .sort("timestamp", "action", "object_type", "object_id")
                    .with_columns(pl.sum("rows").over("user_id"))
                    .group_by("user_id", "action", "object_type", maintain_order=True)
                    .tail(2 * keep + 1)
                    .group_by("user_id", maintain_order=True)
                    .agg(pl.first("rows"), pl.col(Behaviour._fields))
                )
                users = self._users.filter(in_slice).collect(engine="streaming")
                for user_id, values, count, *columns in users.join(
                    histories, on="user_id", how="full", coalesce=True
                ).iter_rows():
                    try:
                        profile = self.fields.profile(values or {})
                    except ValueError as error:
                        raise BackfillError(f"{self._users_at}: user_id {user_id!r}: {error}") from None
                    newest = list(map(Behaviour, *columns)) if count else []
                    yield User(str(self._behaviours_at), user_id, profile, newest)
                    found += 1
                    bar.set_postfix_str(f"{found} users", refresh=False)
                    bar.update(count or 0)

    def _open_users(self) -> "pl.LazyFrame":
        import polars as pl

        table, types = _scan(self._users_at, texts=["user_id"], integers=[])
        wanted = self.fields.features or {}
        for name in types:
            if name != "user_id" and name not in wanted:
                self.fields.left_out[name] += 1
        there = [name for name in wanted if name in types]
        if missing := sorted(set(wanted) - set(there)):
            has = ", ".join(types)
            raise BackfillError(f"{self._users_at}: no column {', '.join(missing)} of features.toml, only {has}")
        for name in there:
            if not _held(types[name]):
                allowed = "text, numbers or lists of these are allowed"
                raise BackfillError(f"{self._users_at}: column {name} is {types[name]}, {allowed}")
        table = table.with_columns(user_id=_canonical(pl.col("user_id"), self.schema.user_id))
        table = table.select("user_id", (pl.struct(there) if there else pl.lit(None)).alias("profile"))
        _refuse(
            self._users_at,
            _scan(self._users_at, texts=["user_id"], integers=[])[0],
            {"no user_id": pl.col("user_id").is_null(), **_wrong_user(self.schema)},
        )
        return table

    def _open_behaviours(self) -> "tuple[pl.LazyFrame, int, int | None]":
        import polars as pl

        table, _ = _scan(
            self._behaviours_at, texts=["user_id", "action", "object_type", "object_id"], integers=["timestamp"]
        )
        table = table.select("user_id", *Behaviour._fields)
        problems = {f"no {name}": pl.col(name).is_null() for name in ("user_id", *Behaviour._fields)}
        problems |= {
            f"{name} {{{name}!r}} given, it may not hold a '|'": pl.col(name).str.contains("|", literal=True)
            for name in ("action", "object_type")
        }
        problems |= {"time {time}": ~pl.col("timestamp").is_between(EARLIEST_MS, LATEST_MS)} | _wrong_user(self.schema)
        object_id = pl.col("object_id")
        for object_type, kind in id_types(self.schema).items():
            typed = pl.col("object_type") == object_type
            wrong = typed & _canonical(object_id, kind).is_null()
            problems[f"object_id {{object_id!r}} of {object_type!r} given, an integer is allowed"] = wrong
            object_id = pl.when(typed).then(_canonical(object_id, kind)).otherwise(object_id)
        _refuse(self._behaviours_at, table, problems)
        rows, newest = table.select(pl.len(), pl.col("timestamp").max()).collect(engine="streaming").row(0)
        user_id = _canonical(pl.col("user_id"), self.schema.user_id)
        return table.with_columns(user_id=user_id, object_id=object_id), rows, newest


def _schema_of(data: Path) -> Schema:
    path = data / "features.toml"
    try:
        return features_toml.load(path)
    except FileNotFoundError:
        raise BackfillError(f"{data} is no prepared data set: {path} is not there (model.prepare writes it)") from None
    except (OSError, SchemaError) as error:
        raise BackfillError(f"{path}: {error}") from None


def _scan(path: Path, texts: list[str], integers: list[str]) -> "tuple[pl.LazyFrame, pl.Schema]":
    """A table, the columns `texts` as text, and its types. Raises BackfillError when a column has another type."""
    import polars as pl

    if not path.exists():
        raise BackfillError(f"{path} is not there: --data is a folder that model.prepare wrote")
    try:
        table = pl.scan_parquet(path)
        types = table.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BackfillError(f"{path}: {str(error).partition(chr(10))[0]}") from None
    for name in texts + integers:
        kind = types.get(name)
        if kind is None:
            raise BackfillError(f"{path}: no column {name}, only {', '.join(types)}")
        if not kind.is_integer() and not (name in texts and kind in (pl.String, pl.Categorical, pl.Enum)):
            raise BackfillError(f"{path}: column {name} is {kind}, {'text or ' * (name in texts)}integers are allowed")
    return table.with_columns(pl.col(texts).cast(pl.String), pl.col(integers).cast(pl.Int64)), types


def _canonical(ids: "pl.Expr", kind: IdType) -> "pl.Expr":
    """Ids as `canonical` has them, as text: an integer without leading zeros. Null where it is none."""
    import polars as pl

    return ids.cast(pl.Int64, strict=False).cast(pl.String) if kind == "int" else ids


def _wrong_user(schema: Schema) -> "dict[str, pl.Expr]":
    import polars as pl

    return {"user_id {user_id!r} given, an integer is allowed": _canonical(pl.col("user_id"), schema.user_id).is_null()}


def _refuse(path: Path, table: "pl.LazyFrame", problems: "Mapping[str, pl.Expr]") -> None:
    """Raises BackfillError for the first row that has one of the problems; their texts may name its columns."""

    checks = [problem.any().alias(text) for text, problem in problems.items()]
    for text, holds in table.select(checks).collect(engine="streaming").row(0, named=True).items():
        if holds:
            row = table.with_row_index("row").filter(problems[text]).head(1).collect().row(0, named=True)
            time = looks_like(row["timestamp"]) if row.get("timestamp") is not None else ""
            raise BackfillError(f"{path}: row {row['row'] + 1}: {text.format(**row, time=time)}")


def _held(kind: "pl.DataType") -> bool:
    import polars as pl

    if isinstance(kind, pl.List | pl.Array):
        return _held(kind.inner) and not isinstance(kind.inner, pl.List | pl.Array)  # type: ignore[arg-type]
    return kind.is_numeric() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)
