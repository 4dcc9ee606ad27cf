"""Names of the user's own classes and functions."""

import pytest

import gpukeras as keras
from gpukeras import saving


def test_a_class_is_registered_under_package_and_name():
    @saving.register_keras_serializable("shop", "Other")
    class Mine(keras.layers.Layer):
        pass

    assert saving.get_registered_name(Mine) == "shop>Other"
    assert saving.get_registered_object("shop>Other") is Mine
    assert saving.get_custom_objects()["shop>Other"] is Mine
    assert saving.serialize_keras_object(Mine())["registered_name"] == "shop>Other"
    assert type(saving.deserialize_keras_object(saving.serialize_keras_object(Mine()))) is Mine


def test_the_default_package_is_custom():
    @saving.register_keras_serializable()
    def doubled(x):
        return x * 2

    assert saving.get_registered_name(doubled) == "Custom>doubled"
    layer = keras.layers.Dense(2, activation=doubled)
    again = saving.deserialize_keras_object(saving.serialize_keras_object(layer))
    assert again.activation is doubled


def test_what_is_not_registered_keeps_its_name():
    def plain():
        pass

    assert saving.get_registered_name(plain) == "plain"
    assert saving.get_registered_object("plain") is None
    assert saving.get_registered_object("plain", custom_objects={"plain": plain}) is plain
    assert saving.get_registered_object("plain", module_objects={"plain": plain}) is plain


def test_a_class_without_a_config_is_refused():
    with pytest.raises(ValueError, match=r"Bare.*no get_config\(\)"):

        @saving.register_keras_serializable()
        class Bare:
            pass


def test_scopes_nest_and_end():
    first, second = object(), object()
    with saving.custom_object_scope({"a": first}):
        with saving.CustomObjectScope({"a": second, "b": second}) as scope:
            assert scope.custom_objects["b"] is second
            assert saving.get_registered_object("a") is second
        assert saving.get_registered_object("a") is first
        assert saving.get_registered_object("b") is None
    assert saving.get_registered_object("a") is None
    with saving.custom_object_scope(None):
        assert saving.get_registered_object("a") is None


def test_what_is_put_into_the_dictionary_can_be_loaded():
    class Mine(keras.layers.Layer):
        pass

    config = saving.serialize_keras_object(Mine())
    saving.get_custom_objects()["Mine"] = Mine
    try:
        assert type(saving.deserialize_keras_object(config)) is Mine
    finally:
        del saving.get_custom_objects()["Mine"]
    with pytest.raises(TypeError, match="Unknown class 'Mine'"):
        saving.deserialize_keras_object(config)
