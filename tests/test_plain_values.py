from itertools import pairwise

import pytest

import penstock as ps
from penstock.plain_values import from_json, from_yaml
from penstock.storage.store import stored_provenance

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n" for a, b in pairwise("abcdefgh")
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join(f'*{a}' for _ in range(9))}]}}\n" for a, b in pairwise("abcdefgh")
)


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "a: &a [*a]\n"])
def test_yaml_that_stands_for_far_more_than_it_says_is_refused(text):
    with pytest.raises(ValueError, match=r"stands for more than 1000000 values"):
        from_yaml(text)
    with pytest.raises(ValueError, match=r"^the pipeline: it stands for"):
        ps.Pipeline.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000 + "\n", "nested too deeply"),
        ("a: 2020-99-99\n", "month must be"),
        ("a: [\n", "line 2: "),
        ("#" * (5 << 20) + "\n", "more than 4 MiB"),
        ("a: \x1b[31m\n", "special characters are not allowed"),
    ],
)
def test_yaml_that_is_none_is_one_sentence(text, problem):
    with pytest.raises(ValueError, match=problem) as error:
        from_yaml(text)
    assert str(error.value).isprintable()


def test_names_for_parts_are_kept():
    assert from_yaml("a: &rate 100.0\nb: *rate\n") == {"a": 100.0, "b": 100.0}


def test_deep_json_is_one_sentence(tmp_path):
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    with pytest.raises(ValueError, match="nested too deeply"):
        from_json(deep)
    with pytest.raises(ValueError, match="the pipeline is not JSON"):
        ps.Pipeline.from_json(deep)
    (tmp_path / "zarr.json").write_text(deep)
    assert stored_provenance(tmp_path) is None


@pytest.mark.parametrize("name", ["channels.tsv", "events.tsv", "eeg.json"])
def test_sidecars_that_are_too_large_are_refused_before_they_are_read(tmp_path, small, name):
    ps.export(small, tmp_path / "sub-1_task-a_eeg.edf")
    with open(tmp_path / f"sub-1_task-a_{name}", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than such a file ever has"):
        ps.open_dataset(tmp_path / "sub-1_task-a_eeg.edf")


def test_a_pipeline_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "p.yaml", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than such a file ever has"):
        ps.Pipeline.from_yaml(tmp_path / "p.yaml")
