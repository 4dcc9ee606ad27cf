"""Where the variables of nested objects stand in files."""

import gpukeras as keras
from gpukeras.saving.tree import walk


def places(root, **settings):
    return {path: type(item).__name__ for path, item in walk(root, **settings)}


class Box(keras.layers.Layer):
    """A layer that holds what it is given."""

    def __init__(self, **held):
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)

    def call(self, x):
        return x


def dense():
    return keras.layers.Dense(1)


def test_attributes_come_in_alphabetical_order_and_private_ones_last():
    found = places(Box(_a=dense(), z=dense(), b=Box(c=dense())))
    assert list(found) == ["", "b", "b/c", "z", "_a"]


def test_items_of_containers_are_named_by_class_and_number():
    box = Box(items=[dense(), Box(), dense(), [dense(), [dense()]], {"x": dense()}, (dense(),)])
    assert list(places(box)) == [
        "",
        "items/dense",
        "items/box",
        "items/dense_1",
        "items/container/dense",
        "items/container/container/dense",
        "items/container_1/dense",
        "items/container_2/dense",
    ]


def test_each_object_is_visited_once_where_it_is_first_met():
    shared = dense()
    assert list(places(Box(b=shared, a=[shared, shared]))) == ["", "a/dense"]


def test_models_begin_with_their_layers():
    model = keras.Sequential([keras.Input((2,)), dense(), dense()])
    model.extra = dense()
    assert list(places(model)) == ["", "layers/dense", "layers/dense_1", "extra"]
    functional = keras.Model(i := keras.Input((2,)), dense()(i))
    assert list(places(functional)) == ["", "layers/input_layer", "layers/dense"]


def test_a_property_that_fails_is_passed_over():
    class Odd(Box):
        @property
        def broken(self):
            raise RuntimeError("not ready")

    assert list(places(Odd(inner=dense()))) == ["", "inner"]


def test_objects_can_be_left_out():
    inner = dense()
    assert list(places(Box(a=inner, b=dense()), skipped=[inner])) == ["", "b"]


def test_deep_nesting_is_no_problem():
    box = dense()
    for _ in range(400):
        box = Box(a=box)
    assert len(places(box)) == 401


def test_cycles_end():
    box = Box(a=dense())
    box.a.back = box
    assert list(places(box)) == ["", "a"]
