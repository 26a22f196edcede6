import numpy as np
import pytest
from safetensors.numpy import save_file

from veridical.study.material import fractions_pairs, object_pairs, parts_pairs, read_source


def test_the_parts_of_a_map_lie_in_the_tangent_space_and_orthogonal_to_it(arrays):
    pairs = parts_pairs({"map": arrays["gradient"], "basis": arrays["basis"]}, 3, 0)
    assert [pair.image for pair in pairs] == [0, 1, 2]
    for pair in pairs:
        orthogonal, tangent = pair.maps
        assert np.count_nonzero(tangent) == 2 and np.count_nonzero(tangent[0, 0, :2]) == 2
        np.testing.assert_allclose(orthogonal + tangent, arrays["gradient"][pair.image])
        assert not orthogonal[0, 0, :2].any() and pair.fractions == (0, 1)


def test_parts_that_are_given_are_taken_as_they_are(arrays):
    pairs = parts_pairs({"tangent": arrays["gradient"], "orthogonal": arrays["gradient-x-input"]}, 9, 0)
    assert len(pairs) == 5
    np.testing.assert_array_equal(pairs[4].maps[0], arrays["gradient-x-input"][4])
    np.testing.assert_array_equal(pairs[4].maps[1], arrays["gradient"][4])


def test_images_are_chosen_by_class_quantile_and_prediction():
    count = 400
    tangent, orthogonal = np.zeros((2, count, 1, 2, 2))
    tangent[:, 0, 0, 0] = np.linspace(0.01, 0.99, count)  # the fraction rises with the index
    orthogonal[:, 0, 1, 1] = np.sqrt(1 - tangent[:, 0, 0, 0] ** 2)
    labels = np.arange(count) % 2
    predictions = np.where(np.arange(count) >= 390, 1 - labels, labels)
    arrays = {"tangent": tangent, "orthogonal": orthogonal, "labels": labels, "predictions": predictions}
    chosen = [pair.image for pair in parts_pairs(arrays, 100, 0)]
    assert len(chosen) == len(set(chosen)) == 20 and min(chosen) >= 350 and max(chosen) < 390
    assert [image % 2 for image in chosen] == [0] * 10 + [1] * 10
    assert chosen == [pair.image for pair in parts_pairs(arrays, 100, 0)]
    assert chosen != [pair.image for pair in parts_pairs(arrays, 100, 1)]
    with pytest.raises(ValueError, match="prediction is the label"):
        parts_pairs({**arrays, "predictions": 1 - labels}, 100, 0)


def test_three_maps_give_the_two_lowest_as_a_and_the_two_highest_as_b():
    """In every order of the fractions, the cyclic ones included."""
    maps = {name: np.full((6, 1, 2, 2), float(index + 1)) for index, name in enumerate("pqr")}
    orders = [
        (0.1, 0.2, 0.3),
        (0.1, 0.3, 0.2),
        (0.2, 0.1, 0.3),
        (0.2, 0.3, 0.1),
        (0.3, 0.1, 0.2),
        (0.3, 0.2, 0.1),
    ]
    given = {f"{name}.fraction": np.array([order[i] for order in orders]) for i, name in enumerate("pqr")}
    pairs = fractions_pairs({**maps, **given}, 6)
    assert len(pairs) == 12
    for pair in pairs:
        by_fraction = dict(zip(orders[pair.image], "pqr", strict=True))
        assert tuple(by_fraction[value] for value in pair.fractions) == pair.names
        assert [one[0, 0, 0] for one in pair.maps] == ["pqr".index(name) + 1 for name in pair.names]
    assert [pair.fractions for pair in pairs] == [(0.1, 0.2), (0.2, 0.3)] * 6


def test_fractions_come_from_the_basis_and_equal_ones_are_left_out(arrays):
    del arrays["images"], arrays["integrated-gradients"]
    pairs = fractions_pairs(arrays, 2)
    for pair in pairs:
        shares = [np.linalg.norm(one[0, 0, :2]) / np.linalg.norm(one) for one in pair.maps]
        np.testing.assert_allclose(pair.fractions, shares)
        assert shares[0] < shares[1]
    assert len(pairs) == 2
    with pytest.raises(ValueError, match="different fractions"):
        fractions_pairs({**arrays, "gradient": 2 * arrays["gradient-x-input"]}, 2)


def test_the_third_task_shows_the_image_and_keeps_the_order_of_methods(arrays):
    pair = object_pairs(arrays, 1, ("integrated-gradients", "gradient"))[0]
    np.testing.assert_array_equal(pair.shown, arrays["images"][0])
    np.testing.assert_array_equal(pair.maps[0], arrays["integrated-gradients"][0])
    assert pair.names == ("integrated-gradients", "gradient")
    del arrays["basis"]
    assert np.isnan(object_pairs(arrays, 1, ("gradient", "gradient-x-input"))[0].fractions).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: parts_pairs({"map": a["gradient"]}, 5, 0), "expected `tangent` and `orthogonal`"),
        (lambda a: fractions_pairs({"gradient": a["gradient"]}, 5), "two or more maps"),
        (lambda a: fractions_pairs({"p": a["gradient"], "q": a["gradient"]}, 5), "add `basis`"),
        (lambda a: fractions_pairs({"p": a["gradient"], "q": a["gradient"], "p.fraction": np.full(5, 2)}, 5),
         r"fractions in \[0, 1\]"),
        (lambda a: object_pairs({"gradient": a["gradient"]}, 5, ("gradient", "q")), "expected 'q'"),
        (lambda a: object_pairs({"p": a["gradient"], "q": a["gradient"]}, 5, ("p", "q")), "'images'"),
    ],
)  # fmt: skip
def test_missing_material_is_named(arrays, make, message):
    with pytest.raises(ValueError, match=message):
        make(arrays)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gradient": np.ones((5, 8, 8))}, "maps"),
        ({"other": np.ones((5, 1, 8, 9))}, r"expected \(5, 1, 8, 8\)"),
        ({"basis": np.ones((5, 1, 8, 8))}, r"\(N, k, C, H, W\)"),
        ({"images": np.ones((4, 1, 8, 8))}, "N, 1 or 3, H, W"),
        ({"images": np.ones((5, 2, 8, 8))}, "N, 1 or 3, H, W"),
        ({"images": np.full((5, 1, 8, 8), 7.0)}, "images in"),
        ({"labels": np.ones((5, 1))}, r"\(5,\)"),
        ({"gradient": np.full((5, 1, 8, 8), np.nan)}, "finite"),
        ({"labels": np.array(["a"] * 5)}, "finite numbers"),
    ],
)
def test_arrays_of_another_form_are_refused(arrays, tmp_path, changed, message):
    for name, array in {"gradient": arrays["gradient"], **changed}.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(ValueError, match=message):
        read_source(tmp_path)


def test_sources_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="look at the name"):
        read_source(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\1\2\3")
    with pytest.raises(ValueError, match="expected arrays"):
        read_source(tmp_path / "broken.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected maps"):
        read_source(tmp_path / "empty")
    np.save(tmp_path / "empty" / "map.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="expected arrays"):
        read_source(tmp_path / "empty")
    save_file({"images": np.ones((5, 1, 8, 8), np.uint8)}, tmp_path / "images.safetensors")
    with pytest.raises(ValueError, match="expected maps"):
        read_source(tmp_path / "images.safetensors")
