"""Class labels by number and name."""

import pytest

from sparsedit_core.class_names import imagenet_names, parse_labels

SHAPES = ("striped disc", "striped square", "checkered disc")


def imagenet(text):
    return parse_labels(text, imagenet_names(), 1000)


def test_imagenet_has_its_thousand_classes():
    names = imagenet_names()
    assert len(names) == 1000
    assert (names[0], names[207], names[979]) == ("tench, Tinca tinca", "golden retriever", "valley, vale")


def test_every_class_is_found_by_its_full_first_name_unless_it_is_shared():
    heads = [name.split(",")[0] for name in imagenet_names()]
    shared = {head.lower() for head in heads if [h.lower() for h in heads].count(head.lower()) > 1}
    assert shared == {"crane", "cardigan", "maillot"}
    for number, head in enumerate(heads):
        if head.lower() not in shared:
            assert imagenet(head) == [number]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("207", [207]),
        ("Golden Retriever", [207]),
        ("golden retriever, 360\n\n  OTTER  ,vale,", [207, 360, 360, 979]),
        ("man-eater", [2]),
        ("golden   retriever", [207]),
    ],
)
def test_numbers_names_and_synonyms(text, numbers):
    assert imagenet(text) == numbers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1000", ["1000 is out of range", "0 to 999"]),
        ("-1", ["-1 is out of range"]),
        ("goldn retriver", ["no class 'goldn retriver'", "207 (golden retriever)"]),
        ("retriever", ["did you mean", "retriever)"]),
        ("crane", ["134", "517", "write the number"]),
        ("qqqqqqqq", ["write a number from 0 to 999"]),
        (" ,\n", ["no class is given"]),
    ],
)
def test_bad_labels_say_what_to_write(text, words):
    with pytest.raises(ValueError) as error:
        imagenet(text)
    assert all(word in str(error.value) for word in words)


def test_names_of_a_checkpoint():
    assert parse_labels("Checkered disc, striped square, 0", SHAPES, 3) == [2, 1, 0]
    with pytest.raises(ValueError, match="did you mean"):
        parse_labels("disc", SHAPES, 3)


def test_a_model_without_names_takes_numbers():
    assert parse_labels("5", None, 10) == [5]
    with pytest.raises(ValueError, match="does not name its 10 classes"):
        parse_labels("otter", None, 10)
