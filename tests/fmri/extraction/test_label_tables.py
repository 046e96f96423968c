"""Names of labels from tables and colour tables of several programs; labels moved by rounding."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from command_line import Penstock

from penstock.fmri import NiftiLabelsMasker
from penstock.fmri.extraction.label_tables import read_lut

nibabel = pytest.importorskip("nibabel")

AFFINE = np.diag([3.0, 3, 3, 1])
SHAPE = (6, 5, 4)

TABLES = {
    "dseg.tsv": (
        "index\tname\tabbreviation\tcolor\n1\tFrontal Pole\tFP\t#ff0000\n17\tHippo\tH\tn/a\n"
    ),
    "nilearn.csv": "color,name,index\n#fff,Frontal Pole,1.0\n#000,Hippo,17\n",
    "quoted.csv": '\ufeff"Index","Name"\r\n1,"Frontal Pole"\r\n17,Hippo\r\n\r\n',
    "german.csv": "index;name\n1;Frontal Pole\n17;Hippo\n",
    "FreeSurferColorLUT.txt": (
        "#$Id: FreeSurferColorLUT.txt,v 1.70 $\n\n#No. Label Name:                R   G   B   A\n\n"
        "1   Frontal Pole                           255 0  0   0\n"
        "# a comment\n17  Hippo                          220 216 20  0\n"
    ),
    "schaefer.txt": "1\tFrontal Pole\t120\t18\t131\t0\n17\tHippo\t120\t19\t131\t0\n",
    "fsleyes.lut": "1 0.93333 0.00000 0.00000 Frontal Pole\n17 0.1 0.2 1 Hippo\n",
    "itksnap.txt": (
        "################\n# ITK-SnAP Label Description File\n"
        '1   255    0    0        1  1  1    "Frontal Pole"\n'
        '17    0  255    0      0.5  1  1    "Hippo"\n'
    ),
    "workbench.txt": "Frontal Pole\n1 255 0 0 255\nHippo\n17 0 255 0 255\n",
    "plain.txt": "1 Frontal Pole\n17 Hippo\n",
    "label.xml": (
        '<?xml version="1.0" encoding="ISO-8859-1"?><atlas><header>'
        "<type>Label</type></header><data>"
        '<label index="1" x="1" y="2" z="3">Frontal Pole</label><label index="17">Hippo</label>'
        "</data></atlas>"
    ),
    "probabilistic.xml": (
        "<atlas><header><name>HO</name><type>Probabilistic</type></header><data>"
        '<label index="0" x="48" y="94" z="35">Frontal\n Pole</label>'
        '<label index="16">Hippo</label></data></atlas>'
    ),
    "AAL.xml": (
        "<atlas><header><type>Label</type></header><data>"
        "<label><index>1</index><name>Frontal Pole</name></label>"
        "<label><index>17</index><name>Hippo</name></label></data></atlas>"
    ),
}


def atlas() -> np.ndarray:
    labels = np.zeros(SHAPE)
    labels[:2], labels[2:4], labels[4:] = 1, 17, 99
    return labels


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_program(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TABLES[name], encoding="utf-8", newline="")
    assert dict(read_lut(str(path))) == {1: "Frontal Pole", 17: "Hippo"}
    image = nibabel.Nifti1Image(atlas().astype("i2"), AFFINE)
    bold = nibabel.Nifti1Image(np.random.default_rng(0).random((*SHAPE, 3)).astype("f4"), AFFINE)
    masker = NiftiLabelsMasker(image, lut=path)
    masker.fit_transform(bold)
    assert masker.get_feature_names_out().tolist() == ["Frontal Pole", "Hippo", "99"]


def test_names_reach_the_command_line(tmp_path: Path, run_cli: Penstock) -> None:
    Path("names.txt").write_text(TABLES["FreeSurferColorLUT.txt"])
    nibabel.save(nibabel.Nifti1Image(atlas().astype("i2"), AFFINE), "atlas.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((*SHAPE, 3), "f4"), AFFINE), "bold.nii")
    done = run_cli(
        "extract", "bold.nii", "--labels", "atlas.nii", "--names", "names.txt", "-o", "t.csv",
        "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert Path("t.csv").read_text().splitlines()[0].endswith("Frontal Pole,Hippo,99")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("index\tcolour\n1\tred\n", "needs the columns index and name"),
        ("index\tname\none\tx\n", "'one' in line 2"),
        ("index\tname\n1.5\tx\n", "'1.5' in line 2"),
        ("index\tname\n1\n", "line 2"),
        ("nothing that\nmakes sense\n", "no values and names"),
        ("", "no values and names"),
        ("<atlas><data></data></atlas>", "holds no labels"),
        ("<atlas><data>", "no XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><atlas><label index="1">&b;</label></atlas>', "entities"),
        ('<atlas><label index="x">a</label></atlas>', "'x' of label 1"),
    ],
)
def test_what_is_no_table_is_told(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match="lut: ") as caught:
        read_lut(str(path))
    assert reason in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_lut(str(tmp_path / "missing.txt"))


# ---------------------------------------------------------------------- labels moved by rounding


@pytest.mark.parametrize("slope", [1.0000001, 0.9999999, 1.000002])
@pytest.mark.parametrize("largest", [3, 2035, 12175, 1_000_000])
def test_labels_moved_by_rounding_are_the_labels(
    tmp_path: Path, slope: float, largest: int
) -> None:
    labels = np.zeros(SHAPE, "i4")
    labels[:3], labels[3:] = largest - 1, largest
    path = tmp_path / "atlas.nii"
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), path)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<f", raw, 112, slope)
    path.write_bytes(bytes(raw))
    bold = nibabel.Nifti1Image(np.random.default_rng(0).random((*SHAPE, 5)), AFFINE)
    if abs(slope - 1) * largest > 0.009:  # (then nobody can tell)
        with pytest.raises(ValueError, match=r"has \d+\.\d+"):
            NiftiLabelsMasker(path).fit_transform(bold)
        return
    masker = NiftiLabelsMasker(path)
    found = masker.fit_transform(bold)
    data = np.asarray(bold.dataobj)
    assert np.allclose(found[:, 1], data[3:].mean(axis=(0, 1, 2)), rtol=1e-12)
    assert masker.get_feature_names_out().tolist() == [str(largest - 1), str(largest)]


@pytest.mark.parametrize("value", [1.001, 1.5, 0.0001])
def test_other_values_are_shown_with_their_digits(value: float) -> None:
    labels = np.zeros(SHAPE)
    labels[2:] = value
    bold = nibabel.Nifti1Image(np.ones((*SHAPE, 5), "f4"), AFFINE)
    with pytest.raises(ValueError, match=f"has {value:g}: maps with weights"):
        NiftiLabelsMasker(nibabel.Nifti1Image(labels, AFFINE)).fit_transform(bold)
