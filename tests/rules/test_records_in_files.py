"""Records in files: what is read, and the sentence for what cannot be. No error holds a value."""

import datetime as dt

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from opensafely_lab.ehrql import engine
from opensafely_lab.ehrql.engine.connection import EngineLimits, connect, lock
from opensafely_lab.ehrql.language import create_dataset, dataset_model
from opensafely_lab.ehrql.tables.core import clinical_events, patients
from opensafely_lab.expressions.schema import ColumnClass, ValueType

PATIENTS = "patient_id,date_of_birth,sex,date_of_death,extra\n1,1950-01-01,female,,x\n2,1960-02-01,male,2020-01-01,y\n"
EVENTS = "patient_id,date,snomedct_code,numeric_value\n1,2020-01-01,100000,1.5\n1,,,\n"


def definition():
    dataset = create_dataset()
    dataset.define_population(patients.exists_for_patient())
    dataset.sex = patients.sex
    dataset.born = patients.date_of_birth
    dataset.events = clinical_events.count_for_patient()
    dataset.value = clinical_events.numeric_value.sum_for_patient()
    dataset.adult = patients.age_on("2020-01-01") > 65
    return dataset_model(dataset)


def make(folder, patients=PATIENTS, events=EVENTS):
    for name, text in (("patients", patients), ("clinical_events", events)):
        (folder / f"{name}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return engine.folder_source(folder)


def rows(info):
    with pa.OSFile(str(info.path)) as file:
        return pa.ipc.open_file(file).read_all().to_pylist()


EXPECTED = [
    {"patient_id": 1, "sex": "female", "born": dt.date(1950, 1, 1), "events": 2, "value": 1.5, "adult": True},
    {"patient_id": 2, "sex": "male", "born": dt.date(1960, 2, 1), "events": 0, "value": None, "adult": False},
]


def test_csv_files_are_read(tmp_path):
    info = engine.run(definition(), make(tmp_path), tmp_path / "out" / "x.arrow")
    assert rows(info) == EXPECTED
    assert info.rows == 2


def test_a_byte_order_mark_and_missing_columns_that_may_be_missing_are_no_matter(tmp_path):
    source = make(tmp_path, b"\xef\xbb\xbf" + b"patient_id,sex,date_of_birth\n1,female,1950-01-01\n2,male,1960-02-01\n")
    assert rows(engine.run(definition(), source, tmp_path / "x.arrow")) == EXPECTED


@pytest.mark.parametrize("kind", ["parquet", "arrow", "parts"])
def test_columnar_files_are_read_alike(tmp_path, kind):
    make(tmp_path)
    folder = tmp_path / "columnar"
    for name in ("patients", "clinical_events"):
        types = "types={'snomedct_code': 'VARCHAR'}" if name == "clinical_events" else "header=true"
        table = duckdb.sql(f"SELECT * FROM read_csv('{tmp_path}/{name}.csv', {types})").to_arrow_table()
        if kind == "arrow":
            folder.mkdir(exist_ok=True)
            with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        elif kind == "parquet":
            folder.mkdir(exist_ok=True)
            pa.parquet.write_table(table, folder / f"{name}.parquet")
        else:
            (folder / name).mkdir(parents=True)
            for i in range(table.num_rows):
                pa.parquet.write_table(table.slice(i, 1), folder / name / f"part-{i:05}.parquet")
    assert rows(engine.run(definition(), engine.folder_source(folder), tmp_path / "x.arrow")) == EXPECTED


@pytest.mark.parametrize(
    ("patients", "events", "told"),
    [
        (PATIENTS.replace("1950-01-01", "01/01/1950"), EVENTS, "patients.csv, row 2: date_of_birth is not a date"),
        (PATIENTS.replace("1960-02-01", "1960-02-31"), EVENTS, "patients.csv, row 3: date_of_birth is not a date"),
        (PATIENTS.replace("1960-02-01", ""), EVENTS, "patients.csv, row 3: date_of_birth is missing"),
        (PATIENTS.replace(",male", ",Male"), EVENTS, "row 3: sex is none of female, male, intersex, unknown"),
        (PATIENTS.replace("\n2,", "\n1,"), EVENTS, "two rows for one patient"),
        (PATIENTS.replace("\n2,", "\nb,"), EVENTS, "row 3: patient_id is not a whole number"),
        (PATIENTS.replace("sex", "gender"), EVENTS, "patients.csv has no column sex"),
        (PATIENTS, EVENTS.replace("1.5", "1,5"), "clinical_events.csv, row 2: this is not CSV"),
        (PATIENTS, EVENTS.replace("1.5", "nan"), "clinical_events.csv, row 2: numeric_value is not a number"),
        (PATIENTS, EVENTS.replace("patient_id,date,", "patient_id,patient_id,"), "column names, each once"),
        ("", EVENTS, "column names"),
        (PATIENTS.encode().replace(b"female", b"fem\xe9le"), EVENTS, "row 2: this is not CSV in UTF-8"),
        (PATIENTS.encode() + b"3,1960-02-01,male,,x\n" * 9_999 + b"4,1960-01-01,\xe9,,x\n", EVENTS, "not CSV in UTF-8"),
        (PATIENTS, b"\x00\x01\xff\xfe" * 50, "not a CSV file"),
        (PATIENTS.replace("female", '"female'), EVENTS, "not CSV"),
        (PATIENTS, EVENTS + "1,2020-01-01,100000," + "9" * 2**21 + "\n", "not CSV|not a number"),
    ],
)
def test_a_broken_file_is_told_with_its_row_and_without_its_values(tmp_path, patients, events, told):
    with pytest.raises(engine.SourceError, match=told) as error:
        engine.run(definition(), make(tmp_path, patients, events), tmp_path / "x.arrow")
    assert "1950" not in str(error.value)
    assert not (tmp_path / "x.arrow").exists()


def test_a_missing_a_doubled_and_a_linked_table_are_told(tmp_path):
    source = make(tmp_path)
    (tmp_path / "clinical_events.csv").unlink()
    with pytest.raises(engine.SourceError, match="no table clinical_events"):
        engine.run(definition(), source, tmp_path / "x.arrow")
    elsewhere = tmp_path.parent / "elsewhere.csv"
    elsewhere.write_text(EVENTS)
    (tmp_path / "clinical_events.csv").symlink_to(elsewhere)
    with pytest.raises(engine.SourceError, match="link"):
        engine.run(definition(), source, tmp_path / "x.arrow")
    (tmp_path / "patients.parquet").write_bytes(b"x")
    with pytest.raises(engine.SourceError, match="more than one file"):
        engine.run(definition(), source, tmp_path / "x.arrow")


def test_a_column_of_another_type_is_told(tmp_path):
    make(tmp_path)
    (tmp_path / "clinical_events.csv").unlink()
    pa.parquet.write_table(pa.table({"patient_id": [1], "date": ["x"]}), tmp_path / "clinical_events.parquet")
    with pytest.raises(engine.SourceError, match="date is varchar, and must be date"):
        engine.run(definition(), engine.folder_source(tmp_path), tmp_path / "x.arrow")


def test_an_extract_says_what_its_columns_are(tmp_path):
    info = engine.run(definition(), make(tmp_path), tmp_path / "x.arrow")
    schema = engine.describe(info.path)
    assert schema == info.schema
    sex = schema.column("sex")
    assert (sex.type, sex.categories, sex.nullable) == (ValueType.STR, ("female", "male", "intersex", "unknown"), False)
    assert schema.column("patient_id").column_class is ColumnClass.IDENTIFIER
    with pa.OSFile(str(info.path)) as file:
        field = pa.ipc.open_file(file).schema.field("sex")
    assert field.type == pa.dictionary(pa.int8(), pa.string(), ordered=True)
    assert field.metadata[b"osl.class"] == b"ordinary"


def test_the_same_records_give_the_same_bytes(tmp_path):
    source = make(tmp_path)
    assert engine.run(definition(), source, tmp_path / "a.arrow").sha256 == (
        engine.run(definition(), source, tmp_path / "b.arrow").sha256
    )


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.arrow"])
def test_an_extract_from_elsewhere_is_described_and_imitated_from_its_schema_alone(tmp_path, name):
    table = pa.table(
        {
            "patient_id": ["pt_1", "pt_2", "pt_3"],
            "region": ["North", "South", None],
            "age": [30, 40, 50],
            "sbp": [120.5, None, 99.0],
            "ill": [True, False, True],
            "died": [dt.date(2020, 1, 1), None, None],
        }
    )
    file = tmp_path / name
    if name.endswith("csv"):
        pyarrow.csv.write_csv(table, file)
    elif name.endswith("parquet"):
        pa.parquet.write_table(table, file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    schema = engine.describe(file)
    assert [column.type.value for column in schema.columns] == ["str", "str", "int", "float", "bool", "date"]
    dummy = tmp_path / "dummy" / name
    for output in (dummy, tmp_path / "again" / name):
        engine.dummy_extract(schema, output, seed=1, literals={"South West"}, rows=200)
    assert dummy.read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert [c.type for c in engine.describe(dummy).columns] == [c.type for c in schema.columns]
    text = dummy.read_bytes()
    if name.endswith("csv"):
        assert b"South West" in text
        assert b"North" not in text and b"pt_" not in text  # noqa: PT018


def test_a_locked_connection_reads_and_changes_nothing_else(tmp_path):
    make(tmp_path)
    secret = tmp_path.parent / "secret.csv"
    secret.write_text("a\n1\n")
    with connect(EngineLimits()) as connection:
        lock(connection, (tmp_path,))
        assert connection.execute(f"SELECT count(*) FROM '{tmp_path}/patients.csv'").fetchone() == (2,)
        for statement in (
            f"SELECT * FROM '{secret}'",
            "SET enable_external_access=true",
            "SET memory_limit='99GB'",
            "INSTALL httpfs",
            f"COPY (SELECT 1) TO '{tmp_path.parent}/out.csv'",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)
