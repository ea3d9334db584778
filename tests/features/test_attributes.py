"""Tables of attributes: no column or class is lost, no cell is guessed at."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rezsl_features.attributes import read_attributes


@pytest.fixture
def read(tmp_path):
    def call(text, **options):
        path = tmp_path / "classes.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_attributes(path, **options)

    return call


def column(*cells):
    """A table of one column of interest beside a plain one."""
    rows = [f"c{i};{cell};{i}" for i, cell in enumerate(cells)]
    return "\n".join(["class;x;plain", *rows])


def test_plain(read):
    table = read("class,split,furry,legs\ncat,seen,1,4\nhen,unseen,0,2.5e0\n")
    assert table.classes == ["cat", "hen"]
    assert table.matrix.tolist() == [[1, 4], [0, 2.5]]
    assert table.matrix.dtype == np.float64
    assert table.attribute_names == ["furry", "legs"]
    assert table.summary() == (
        "2 attributes of 2 classes: furry, legs; left out: split"
    )
    assert table.notes == []


@pytest.mark.parametrize(
    "odd", ["?", "0,5", "50%", "True", "yes", "1e999", "1_0", "inf"]
)
def test_an_odd_cell_is_named(read, odd):
    """Such a column used to vanish."""
    with pytest.raises(ValueError) as info:
        read(column("1", "0.5", odd, "2"))
    assert "in line 4 ('c2'), column 2 ('x'), the cell is " + repr(odd) in str(
        info.value
    )


@pytest.mark.parametrize("gap", ["", " ", "NA", "n/a", "NaN", "nan", "null", "None"])
def test_a_missing_cell(read, gap):
    text = column("1", "0.5", gap, "2")
    with pytest.raises(
        ValueError, match=r"in line 4 \('c2'\), column 2 \('x'\)"
    ) as info:
        read(text)
    assert "allow missing values" in str(info.value)
    table = read(text, allow_missing=True)
    np.testing.assert_array_equal(table.matrix[:, 0], [1, 0.5, np.nan, 2])
    assert table.notes[-1] == "1 of 8 values are missing."


@pytest.mark.parametrize(
    ("cells", "values", "note"),
    [
        (["0,5", "1", "-2,25"], [0.5, 1, -2.25], "decimal commas"),
        (["1", "2", "0,5"], [1, 2, 0.5], "decimal commas"),
        (["1,000", "0,5", "2"], [1, 0.5, 2], "decimal commas"),
        (["50%", "12.5 %", "0%"], [0.5, 0.125, 0], "percentages"),
        (["50%", "12,5%", "0%"], [0.5, 0.125, 0], "percentages"),
        (["True", "false", "TRUE"], [1, 0, 1], "yes = 1"),
        (["yes", "no", "Yes"], [1, 0, 1], "yes = 1"),
    ],
)
def test_a_column_that_agrees_is_read_in_its_manner(read, cells, values, note):
    table = read(column(*cells))
    assert table.matrix[:, 0].tolist() == values
    assert any(note in line and line.endswith(": x.") for line in table.notes)


@pytest.mark.parametrize(
    ("cells", "odd"),
    [
        (["50%", "0.5", "20%"], "'0.5'"),
        (["0,5", "0.5", "0,25"], "'0.5'"),
        (["yes", "no", "1"], "'1'"),
        (["yes", "no", "perhaps"], "'perhaps'"),
        (["1,000", "2,500", "300"], "'1,000'"),  # 1 or 1000?
        (["1,000%", "2,500%", "300%"], "'1,000%'"),
        (["1,000,000", "2", "3"], "'1,000,000'"),
    ],
)
def test_a_column_that_does_not_agree(read, cells, odd):
    with pytest.raises(ValueError, match="the cell is") as info:
        read(column(*cells))
    assert f"the cell is {odd}" in str(info.value)


def test_text_is_left_out_and_listed(read):
    table = read(
        "class,wnid,n_images,note,furry,empty\n"
        "cat,n01,120,1 of many,1,\nhen,n02,80,few,0,\ncow,n03,9,3,1,\n"
    )
    assert table.summary() == (
        "2 attributes of 3 classes: n_images, furry; left out: wnid, note, empty"
    )


def test_many_attributes_are_abridged(read):
    names = [f"a{i}" for i in range(60)]
    table = read(
        ",".join(["class", *names]) + "\ncat" + ",1" * 60 + "\nhen" + ",2" * 60
    )
    assert table.summary().startswith("60 attributes of 2 classes: a0, a1,")
    assert "a14, ... 30 more ..., a45," in table.summary()


def test_without_a_header_the_first_class_stays(read):
    table = read("cat,seen,1,0\nhen,unseen,0,1\n")
    assert table.classes == ["cat", "hen"]
    assert table.matrix.tolist() == [[1, 0], [0, 1]]
    assert table.attribute_names == ["1", "2"] and table.left_out == ["0"]
    assert "There is no header" in table.notes[0] and "'cat'" in table.notes[0]
    assert read("cat,1\n").classes == ["cat"]


@pytest.mark.parametrize("head", ["", "class", "name", "Unnamed: 0"])
def test_attributes_named_by_numbers_are_a_header(read, head):
    table = read(f"{head},0,1\ncat,1,0\nhen,0,1\n")
    assert table.classes == ["cat", "hen"] and table.attribute_names == ["0", "1"]


def test_a_first_row_that_may_be_either(read):
    with pytest.raises(ValueError, match="'furry' is text and '2019' a value"):
        read("animal,2019,furry\ncat,1,0\nhen,0,1\n")
    assert read("class,2019,furry\ncat,1,0\n").attribute_names == ["2019", "furry"]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_and_a_byte_order_mark(read, separator, mark):
    rows = (["class", "furry, soft", "legs"], ["cat", "1", "4"], ["hen", "0", "2"])
    quote = '"{}"' if separator == "," else "{}"
    text = "\r\n".join(separator.join(map(quote.format, row)) for row in rows)
    table = read(mark + text + "\r\n" + separator * 2 + "\r\n")
    assert table.classes == ["cat", "hen"]
    assert table.attribute_names == ["furry, soft", "legs"]
    assert table.matrix.tolist() == [[1, 4], [0, 2]]


def test_decimal_commas_between_semicolons(read):
    table = read("class;a;b\ncat;0,5;1\nhen;1,5;2\n")
    assert table.matrix.tolist() == [[0.5, 1], [1.5, 2]]
    assert table.notes == [
        "The columns are separated by semicolons.",
        "Read with decimal commas (0,5 is 0.5): a.",
    ]


def test_what_pandas_writes(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "classes.csv"
    frame = pandas.DataFrame({"animal": ["cat", "hen"], "furry": [1, 0]})
    for start in (0, 1):
        frame.index = frame.index - frame.index[0] + start
        frame.to_csv(path)
        table = read_attributes(path)
        assert table.classes == ["cat", "hen"] and table.attribute_names == ["furry"]
        assert table.notes == [
            "The classes are in column 2, 'animal'; those before it were left out."
        ]
    frame.set_index("animal").to_csv(path)
    assert read_attributes(path).notes == []
    frame.set_index("animal").rename_axis(None).to_csv(path)
    assert read_attributes(path).classes == ["cat", "hen"]


def test_classes_that_are_numbers_stay_classes(read):
    table = read("label,name,loops\n0,zero,1\n1,one,0\n2,two,0\n")
    assert table.classes == ["0", "1", "2"] and table.left_out == ["name"]
    table = read("id,wnid,class,furry\n17,n1,cat,1\n4,n2,hen,0\n")
    assert table.classes == ["cat", "hen"] and table.attribute_names == ["furry"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        (" \r|", "is empty"),
        ("class,furry\n", "no line under its header"),
        ("class\ncat\n", "one column, headed 'class': no comma, tab"),
        ("class furry\ncat 1\n", "one column, headed 'class furry'"),
        ("class,furry\ncat,1,2\n", "3 fields in line 2 and 2 fields in its first line"),
        ("class;furry\ncat;1;2\n", "separated by semicolons"),
        ("class,split\ncat,seen\n", "no column of numbers .* class, split"),
        ("class,furry\ncat,1\ncat,0\n", r"class 'cat' in lines 2 and 3"),
        ("class,furry\ncat,1\n cat ,0\n", r"class 'cat' in lines 2 and 3"),
        ("class,furry\ncaf\u00e9,1\ncafe\u0301,0\n", "in lines 2 and 3"),
        ("class,furry\n,1\nhen,0\n", "no class in line 2"),
        (
            "class,furry,furry\ncat,1,0\n",
            "two attributes named 'furry', in columns 2",
        ),
        ("class,furry, furry\ncat,1,0\n", "two attributes named 'furry'"),
        ("class,furry, \ncat,1,0\n", "no name for the attribute in column 3"),
        (b"class,furry\ncaf\xe9,1\n", r"no text in UTF-8 \(line 2 is not\)"),
        (b"PK\x03\x04...", "save the table as CSV"),
        ('class,furry\n"cat,1\n', "is no table"),
    ],
)
def test_tables_that_make_no_sense(read, text, match):
    with pytest.raises(ValueError, match=match):
        read(text)


def test_a_workbook_saved_as_unicode_text(read):
    table = read("class\tfurry\ncaf\u00e9\t1\n".encode("utf-16"))
    assert table.classes == ["caf\u00e9"]


PIECES = [",", ";", "\t", "|", "\n", "\r", '"', "class", "cat", "hen", "0", "1", "0,5"]
PIECES += ["0.5", "50%", "yes", "no", "NA", "\0", "\u00e9", "\ufeff", " ", "1e999", "?"]


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.booleans())
def test_any_text_is_a_table_or_a_sentence(read, text, allow_missing):
    try:
        table = read(text, allow_missing=allow_missing)
    except ValueError as error:
        assert "classes.csv" in str(error)
        return
    shape = (len(table.classes), len(table.attribute_names))
    assert table.matrix.shape == shape and 0 not in shape
    assert len(set(table.classes)) == shape[0] and all(table.classes)
    assert len(set(table.attribute_names)) == shape[1] and all(table.attribute_names)
    assert not np.isinf(table.matrix).any()
    assert allow_missing or not np.isnan(table.matrix).any()
