"""Configs: what YAML becomes, what is refused and in which words, and that nothing is lost on the way back."""

import inspect
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn.config import check, dump, load_config, override, parse, read_mapping, to_yaml
from metalearn.errors import UserError
from metalearn.kinds import TABLES, check_kind, load_attribute, resolve, table_of
from metalearn.schema import CONFIGS, BenchConfig, EpisodeSetting, Kind, PretrainConfig

BENCH = """
dataset: glyphs
extractors: {pixels: pixels, vae: {kind: pretrain, objective: {kind: vae}}}
learners: {proto: prototypical}
episodes: {settings: [5w1s, {ways: 20, shots: 5}], count: 100}
"""
SMALLEST = {
    "pretrain": "{dataset: glyphs, objective: vae}",
    "train": "{dataset: glyphs, extractor: pixels, learner: ridge, episodes: {settings: [5w1s]}}",
    "bench": BENCH,
    "measure": "{checkpoint: runs/x, dataset: glyphs}",
    "extract": "{dataset: glyphs, extractor: pixels}",
}


def bench(*overrides: str) -> BenchConfig:
    return check(override(parse(BENCH, "b.yaml"), overrides), BenchConfig, "b.yaml")


def message(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        bench(*overrides)
    return str(caught.value)


class TestYaml:
    @pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "+1e-3", ".001", "0.001", "1.0e-3"])
    def test_every_spelling_of_a_float_is_a_float(self, text):
        assert parse(f"x: {text}", "t") == {"x": 0.001}

    @pytest.mark.parametrize("text", ["12", "-3", "0"])
    def test_integers_stay_integers(self, text):
        assert type(parse(text, "t")) is int

    @pytest.mark.parametrize("text", ["e3", "1e", ".", "1-3", "5w1s", "1:30.5"])
    def test_text_that_only_looks_like_a_number_stays_text(self, text):
        assert parse(f"x: {text}", "t") == {"x": text}

    def test_a_repeated_key_is_named_with_its_line(self):
        with pytest.raises(UserError, match="t: duplicate key 'b' on line 3; keep one of them"):
            parse("a:\n  b: 1\n  b: 2\n", "t")

    def test_anchors_and_merge_keys_work(self):
        assert parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "t")["b"] == {"x": 1, "y": 3}

    def test_nothing_is_executed(self):
        with pytest.raises(UserError, match="not valid YAML: could not determine a constructor"):
            parse("x: !!python/object/apply:os.getcwd []", "t")

    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    )

    @settings(max_examples=200, deadline=None)
    @given(st.dictionaries(st.text(min_size=1, max_size=5), st.one_of(scalars, st.lists(scalars, max_size=3))))
    def test_what_is_written_is_read_back(self, data):
        assert parse(to_yaml(data), "t") == data

    def test_numbers_as_text_survive(self):
        assert parse(to_yaml({"x": "1e-3", "y": "1e3"}), "t") == {"x": "1e-3", "y": "1e3"}

    @settings(max_examples=100, deadline=None)
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_plain_pyyaml_reads_our_floats_or_text_of_the_same_value(self, value):
        assert float(yaml.safe_load(to_yaml({"x": value}))["x"]) == value


class TestFile:
    def test_absent(self, tmp_path):
        with pytest.raises(UserError, match="does not exist; give the path of a YAML file"):
            read_mapping(tmp_path / "none.yaml")

    @pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
    def test_empty(self, tmp_path, text):
        (tmp_path / "e.yaml").write_text(text)
        with pytest.raises(UserError, match="e.yaml is empty; it must hold a mapping"):
            read_mapping(tmp_path / "e.yaml")

    def test_no_mapping(self, tmp_path):
        (tmp_path / "l.yaml").write_text("- 1\n- 2\n")
        with pytest.raises(UserError, match="l.yaml holds a list; allowed: a mapping of keys to values"):
            read_mapping(tmp_path / "l.yaml")

    def test_directory(self, tmp_path):
        with pytest.raises(UserError, match="is a directory; give a YAML file in it"):
            read_mapping(tmp_path)

    def test_binary(self, tmp_path):
        (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UserError, match="cannot be read as text"):
            read_mapping(tmp_path / "b.yaml")

    def test_syntax_error_names_file_and_line(self, tmp_path):
        (tmp_path / "s.yaml").write_text("a: 1\nb: {c: 2\nd: 3\n")
        with pytest.raises(UserError, match=r"s.yaml, line 3: not valid YAML: expected ',' or '}'"):
            read_mapping(tmp_path / "s.yaml")


class TestOverride:
    def test_sets_what_is_there_and_what_is_not(self):
        config = bench("seeds=[1, 2]", "pretraining.training.learning_rate=1e-4", "extractors.vae.objective.beta=4")
        assert config.seeds == [1, 2]
        assert config.pretraining.training.learning_rate == 1e-4
        assert config.extractors["vae"].options["objective"] == {"kind": "vae", "beta": 4}

    def test_options_of_a_kind_given_by_name_alone(self):
        assert bench("dataset.classes=50").dataset.model_dump() == {"kind": "glyphs", "classes": 50}

    def test_item_of_a_list(self):
        assert bench("episodes.settings.1.shots=1").episodes.settings[1] == EpisodeSetting(ways=20, shots=1)

    def test_new_extractor(self):
        assert list(bench("extractors.random.kind=random").extractors) == ["pixels", "vae", "random"]

    def test_leaves_the_given_data_alone(self):
        data = {"a": {"b": [1]}}
        assert override(data, ["a.b.0=2"]) == {"a": {"b": [2]}}
        assert data == {"a": {"b": [1]}}

    @pytest.mark.parametrize("text", ["seeds", "=3", "a..b=1", ".=1", ""])
    def test_no_assignment(self, text):
        assert f"--set {text!r}: allowed: path=value, such as training.epochs=3" in message(text)

    def test_no_such_item(self):
        assert "episodes.settings has no item '2'; allowed: 0 to 1" in message("episodes.settings.2.ways=5")

    def test_through_a_number(self):
        assert "episodes.count is 100, which has no keys" in message("episodes.count.x=5")

    def test_value_of_wrong_syntax(self):
        assert "--set 'seeds=[1', line 1: not valid YAML" in message("seeds=[1")

    def test_unknown_path_offers_the_closest(self):
        found = message("pretraining.training.epoch=3")
        assert "b.yaml: pretraining.training: unknown key 'epoch'; did you mean 'epochs'? allowed: augment" in found


class TestMessages:
    @pytest.mark.parametrize(
        ("assignment", "words"),
        [
            ("bseline=vae", "unknown key 'bseline'; did you mean 'baseline'? allowed: baseline, dataset,"),
            ("pretraining.training.epochs='3'", "training.epochs: given '3' (text); allowed: a valid integer"),
            ("pretraining.training.epochs=true", "epochs: given True (true or false); allowed: a valid integer"),
            ("pretraining.training.epochs=2.5", "epochs: given 2.5 (number); allowed: a valid integer"),
            ("pretraining.training.epochs=0", "epochs: given 0 (integer); allowed: greater than 0"),
            ("pretraining.training.epochs=", "epochs: given nothing; allowed: a valid integer"),
            ("pretraining.training.learning_rate=fast", "rate: given 'fast' (text); allowed: a valid number"),
            ("pretraining.training.learning_rate=.nan", "learning_rate: given nan (number); allowed: a finite number"),
            ("pretraining.training.schedule=cosin", "unknown value 'cosin'; did you mean 'cosine'? allowed: constant,"),
            ("pretraining.training=3", "pretraining.training: given 3 (integer); allowed: a mapping of keys"),
            ("seeds=3", "seeds: given 3 (integer); allowed: a list"),
            ("seeds=[]", "seeds: given [] (list); allowed: at least 1 of them"),
            ("seeds=[0, 1, 0]", "seeds: given 0 twice; allowed: each once"),
            ("seeds=[-1]", "seeds.0: given -1 (integer); allowed: greater than or equal to 0"),
            ("learners={}", "learners: given {} (mapping); allowed: at least 1 of them"),
            ("dataset.kind=3", "dataset.kind: given 3 (integer); allowed: text"),
            ("dataset={classes: 3}", "dataset.kind: missing; it has no default and must be given"),
            ("episodes.settings=[5w]", "episodes.settings.0: given '5w'; allowed: WwSs, such as 5w1s, or {ways: 5,"),
            ("episodes.settings=[1w1s]", "settings.0.ways: given 1 (integer); allowed: greater than or equal to 2"),
            ("episodes.part=train", "episodes.part: unknown value 'train'; allowed: test, val"),
            ("baseline=pixel", "unknown baseline 'pixel'; did you mean 'pixels'? allowed: pixels, vae"),
        ],
    )
    def test_words(self, assignment, words):
        assert words in message(assignment)

    @pytest.mark.parametrize("key", ["pretraining.training.augmentation", "meta_training.augmentation"])
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("{rotation: 200}", "rotation: given 200.0; allowed: 0 to 180 degrees"),
            ("{rotation: '9'}", "rotation: given '9' (text); allowed: a valid number"),
            ("{rotaton: 9}", "unknown key 'rotaton'; did you mean 'rotation'? allowed: aspect, brightness, contrast,"),
            ("{scale: [1.2, 0.8]}", "scale: given [1.2, 0.8]; allowed: two factors, 0 < lowest <= highest"),
            ("{scale: 1.2}", "scale: given 1.2 (number); allowed: a list"),
            ("{scale: [1, 2, 3]}", "scale: given [1, 2, 3] (list); allowed: at most 2 of them"),
            ("{crop: [0.5, 1.5]}", "crop: given [0.5, 1.5]; allowed: two shares of the area, 0 < lowest <= highest <="),
            ("{outside: edges}", "outside: unknown value 'edges'; did you mean 'edge'? allowed: edge, fill"),
            ("{fill: .nan}", "fill: given nan (number); allowed: a finite number"),
            ("{flip: x, hue: y}", "2 problems\n  flip: given 'x' (text); allowed: a valid number\n  hue: given 'y'"),
            ("3", "given 3 (integer); allowed: a mapping of keys to values"),
        ],
    )
    def test_augmentation(self, key, given, words):
        assert f"b.yaml: {key}: {words}" in message(f"{key}={given}")

    def test_augmentation_is_none_or_has_every_default_filled_in(self):
        assert bench().pretraining.training.augmentation is None
        assert bench("pretraining.training.augmentation=").pretraining.training.augmentation is None
        config = bench("pretraining.training.augmentation={scale: [0.9, 1], hue: 0.1}", "meta_training.augmentation={}")
        found = config.pretraining.training.augmentation
        assert found["scale"] == [0.9, 1.0] and found["hue"] == 0.1 and found["rotation"] == 0.0
        assert config.meta_training.augmentation == {**found, "scale": [1.0, 1.0], "hue": 0.0}
        assert check(parse(dump(config), "d"), BenchConfig, "d") == config

    def test_several_problems_are_one_message(self):
        lines = message("seeds=3", "pretraining.training.epochs=x").splitlines()
        assert lines[0] == "b.yaml: 2 problems"
        assert [line.split(":")[0].strip() for line in lines[1:]] == ["pretraining.training.epochs", "seeds"]

    def test_the_file_and_the_overrides_are_named(self, tmp_path):
        (tmp_path / "x.yaml").write_text(BENCH)
        with pytest.raises(UserError, match=r"x.yaml with --set seeds=3: seeds: given 3"):
            load_config(tmp_path / "x.yaml", BenchConfig, ["seeds=3"])


class TestModels:
    @pytest.mark.parametrize("command", CONFIGS)
    def test_the_smallest_config_loads_and_round_trips(self, command):
        config = check(parse(SMALLEST[command], "s"), CONFIGS[command], "s")
        assert check(parse(dump(config), "d"), CONFIGS[command], "d") == config

    @pytest.mark.parametrize("command", CONFIGS)
    def test_the_empty_config_says_what_is_missing(self, command):
        with pytest.raises(UserError, match="dataset: missing; it has no default and must be given"):
            check({}, CONFIGS[command], "s")

    def test_whole_numbers_are_taken_where_floats_are_asked(self):
        assert bench("pretraining.training.weight_decay=0").pretraining.training.weight_decay == 0.0

    def test_the_first_extractor_is_the_baseline(self):
        assert bench().baseline == "pixels"
        assert bench("baseline=vae").baseline == "vae"

    def test_settings_are_named(self):
        assert [str(setting) for setting in bench().episodes.settings] == ["5w1s", "20w5s"]


class Net:
    """A component with every type of option a config can give."""

    def __init__(
        self, shape: tuple[int, ...], *, width: int = 8, rate: float = 0.5, act: Literal["relu", "elu"] = "relu",
        sizes: tuple[int, ...] = (1, 2), name: str | None = None, bias: bool = True, hook: object = print,
    ):  # fmt: skip
        self.shape, self.width = shape, width


def free(shape: tuple[int, ...], **options: object) -> dict[str, object]:
    """Take anything."""
    return options


def needy(amount: int) -> int:
    """Need something."""
    return amount


TABLE = {"net": Net, "named": "collections:OrderedDict", "free": free, "needy": needy}


def choose(skip: tuple[str, ...] = ("shape",), **kind: object):
    return check_kind("trunk", Kind.model_validate(kind), TABLE, skip)


class TestKinds:
    def test_defaults_are_filled_in_and_round_trip(self):
        choice = choose(kind="net", width=3, sizes=[4, 5])
        assert choice.build is Net
        assert choice.options["sizes"] == (4, 5)
        plain = {"width": 3, "rate": 0.5, "act": "relu", "sizes": [4, 5], "name": None, "bias": True}
        assert choice.kind.options == plain
        assert choose(**choice.kind.model_dump()) == choice

    def test_whole_numbers_for_floats(self):
        assert choose(kind="net", rate=1).options["rate"] == 1.0

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"widht": 3}, "trunk 'net': unknown key 'widht'; did you mean 'width'? allowed: act, bias, hook, name,"),
            ({"width": "3"}, "trunk 'net': width: given '3' (text); allowed: a valid integer"),
            ({"width": True}, "trunk 'net': width: given True (true or false); allowed: a valid integer"),
            ({"act": "rel"}, "trunk 'net': act: unknown value 'rel'; did you mean 'relu'? allowed: elu, relu"),
            ({"sizes": 3}, "trunk 'net': sizes: given 3 (integer); allowed: a list"),
            ({"bias": 1}, "trunk 'net': bias: given 1 (integer); allowed: a valid boolean"),
            ({"shape": [1]}, "trunk 'net': unknown key 'shape'"),
        ],
    )
    def test_words(self, options, words):
        with pytest.raises(UserError) as caught:
            choose(kind="net", **options)
        assert words in str(caught.value)

    def test_unknown_kind(self):
        with pytest.raises(UserError, match="unknown trunk 'nett'; did you mean 'net'?"):
            choose(kind="nett")

    def test_missing_option(self):
        with pytest.raises(UserError, match="trunk 'needy': amount: missing; it has no default"):
            choose(kind="needy")

    def test_free_options_pass(self):
        assert choose(kind="free", a=1, b=[2]).options == {"a": 1, "b": [2]}

    def test_outside_code(self):
        assert check_kind("trunk", Kind(kind="collections:Counter"), TABLE).build.__name__ == "Counter"

    def test_outside_module_absent(self):
        with pytest.raises(UserError, match="cannot import 'no.such': No module named 'no'; is its folder on PYTHONP"):
            load_attribute("no.such:Net")

    def test_outside_name_absent(self):
        with pytest.raises(UserError, match="'fractions:Fractoin': unknown name 'Fractoin'; did you mean 'Fraction'?"):
            load_attribute("fractions:Fractoin")

    def test_resolve_fills_every_kind_and_again_changes_nothing(self):
        config = check(parse("{dataset: glyphs, objective: guided_vae}", "s"), PretrainConfig, "s")
        resolved = resolve(config)
        assert resolved.dataset.options["classes"] == 1200
        assert resolved.objective.options["transforms"] == ["rotation", "scale"]
        assert resolve(resolved) == resolved
        assert check(parse(dump(resolved), "d"), PretrainConfig, "d") == resolved

    def test_resolve_names_the_key_at_fault(self):
        config = check(parse("{dataset: {kind: glyphs, clases: 3}, objective: vae}", "s"), PretrainConfig, "s")
        with pytest.raises(UserError, match="dataset: dataset 'glyphs': unknown key 'clases'; did you mean 'classes'?"):
            resolve(config)

    @pytest.mark.parametrize("what", ["dataset", "objective", "learner"])
    def test_defaults_of_every_entry_of_every_table_can_be_written(self, what):
        for name, entry in table_of(what).items():
            if isinstance(entry, str):
                continue  # imported only when used
            needed = {"path": "images"} if "path" in inspect.signature(entry).parameters else {}  # it has no default
            kind = check_kind(what, Kind(kind=name, **needed), table_of(what), TABLES[what].skip).kind
            again = Kind.model_validate(parse(to_yaml(kind.model_dump()), "t"))
            assert check_kind(what, again, table_of(what), TABLES[what].skip).kind == kind
