"""Several teachers: their joint space against hand-written references, and their cache."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from transformers import CLIPImageProcessor

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import VIT, make_image_processor, make_model
from tests.tiny_teachers import make_teacher_model, save_teacher
from training.config import AugmentConfig, DataConfig, DistillRecipe, StudentConfig, TeacherConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.batch import Batch
from training.data.transforms import Augment
from training.engine.inputs import Models, caption_tokens, open_inputs
from training.teachers import TOWERS, Teacher
from training.teachers.cache import build_target_cache, find_targets
from training.teachers.ensemble import Ensemble, JointTargets, joint_bank, translations
from training.teachers.targets import LiveTargets, TargetSpec, encode_bank

AUGMENT = Augment(AugmentConfig(zoom=0.3, rotate=10), seed=0)
LANGUAGES = ["en", "zh"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer, other_tokenizer) -> list[str]:
    """AltCLIP and SigLIP: other tokens, widths, logit scales, statistics and image sizes."""
    folder = tmp_path_factory.mktemp("teachers")
    save_teacher("altclip", folder / "altclip", tokenizer)
    save_teacher("siglip", folder / "siglip", other_tokenizer)
    processor = CLIPImageProcessor.from_pretrained(folder / "siglip")
    processor.image_mean, processor.image_std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    processor.save_pretrained(folder / "siglip")
    return [str(folder / "altclip"), str(folder / "siglip")]


@pytest.fixture(scope="module")
def teachers(folders) -> list[Teacher]:
    return [Teacher.from_pretrained(folder) for folder in folders]


@pytest.fixture(scope="module")
def small_teacher(tmp_path_factory, tokenizer) -> Teacher:
    """A teacher of smaller images."""
    folder = tmp_path_factory.mktemp("small")
    make_model(VIT | {"image_size": 32}, image_size=32, seed=5).save_pretrained(folder)
    DCCLIPProcessor(make_image_processor(32), tokenizer).save_pretrained(folder)
    return Teacher.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer, teachers) -> PairDataset:
    """Captions of the first teacher's tokens, which are the student's, and of the second one's."""
    further = {1: CaptionTokenizer(tokenizer, 32, teachers[1].tokenizer)}
    tokens = CaptionTokenizer(tokenizer, 32, further=further)
    return PairDataset(train_rows.select(range(24)), DataConfig(train="tiny"), tokens, 64)


@pytest.fixture(scope="module")
def batch(dataset) -> Batch:
    return dataset.collate([(row, row % 2, row % 2, dataset[row]) for row in (3, 20, 12, 7)])


def make_ensemble(teachers: list[Teacher], **fields) -> Ensemble:
    """Ensemble of teachers; each field has one value for each of them."""
    entries = [{name: values[number] for name, values in fields.items()} for number in range(len(teachers))]
    return Ensemble(teachers, [TeacherConfig(teacher=t.name, **e) for t, e in zip(teachers, entries, strict=True)])


def live(ensemble: Ensemble) -> JointTargets:
    sources = [(member, LiveTargets(member.teacher, TargetSpec(TOWERS))) for member in ensemble.members]
    return JointTargets(sources, ensemble.projection_dim, LANGUAGES)


def embed(targets: JointTargets, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    views = AUGMENT(batch["images"], batch["rows"], batch["view_ids"])
    return targets.images(views, batch).embedding, targets.texts(batch).embedding


def reference(teacher: Teacher, dataset: PairDataset, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized embeddings of one teacher: images in its own size and statistics, captions in its own tokens."""
    views = AUGMENT(batch["images"], batch["rows"], batch["view_ids"])
    edge, processor = teacher.image_size, teacher.image_processor
    if views.shape[-1] != edge:
        views = F.interpolate(views.float(), (edge, edge), mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    images = teacher.encode_images((views / 255 - mean) / std).embedding
    captions = list(dataset.caption_ids)
    texts = teacher.encode_texts(**teacher.tokenize([captions[n] for n in batch["caption_ids"]], 32)).embedding
    return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


def test_joint_logits_are_the_weighted_mean_of_the_teachers_logits(teachers, small_teacher, dataset, batch):
    members, weights = [*teachers, small_teacher], (1.0, 3.0, 0.5)
    ensemble = make_ensemble(members, weight=weights)
    image, text = embed(live(ensemble), batch)
    assert image.shape[1] == ensemble.projection_dim == sum(teacher.projection_dim for teacher in members)
    expected = torch.zeros(len(image), len(text))
    for teacher, weight in zip(members, weights, strict=True):
        images, texts = reference(teacher, dataset, batch)
        expected += weight / sum(weights) * math.exp(teacher.logit_scale) * images @ texts.T
    torch.testing.assert_close(image.norm(dim=1), torch.ones(len(image)))
    torch.testing.assert_close(math.exp(ensemble.logit_scale) * image @ text.T, expected, rtol=1e-4, atol=1e-4)


def test_a_single_teacher_stays_as_it_is(teachers, batch):
    ensemble = make_ensemble(teachers[:1])
    image, text = embed(live(ensemble), batch)
    views = AUGMENT(batch["images"], batch["rows"], batch["view_ids"])
    alone = LiveTargets(teachers[0], TargetSpec(TOWERS))
    assert torch.equal(image, alone.images(views, batch).embedding)
    assert torch.equal(text, alone.texts(batch).embedding)
    assert ensemble.logit_scale == teachers[0].logit_scale and ensemble.name == teachers[0].name


def test_a_caption_takes_the_target_of_its_translation():
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    encoded = torch.tensor([True, False, False, False, True, True])
    assert translations(owner, encoded).tolist() == [0, 0, -1, 4, 4, 5]
    assert translations(owner[:0], encoded[:0]).tolist() == []


def test_a_teacher_of_one_language_teaches_the_others_by_translation(teachers, dataset, batch):
    _, text = embed(live(make_ensemble(teachers, languages=(["en"], ["zh"]))), batch)
    english, chinese = (batch["language"] == number for number in (0, 1))
    captions = list(dataset.caption_ids)
    for number, own in ((0, english), (1, chinese)):
        columns = make_ensemble(teachers).members[number].columns
        expected = reference(teachers[number], dataset, batch)[1][own]
        assert [captions[n] for n in batch["caption_ids"][own]]  # every image has a caption in both languages
        for group in (english, chinese):
            found = F.normalize(text[group][:, columns], dim=-1)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_caption_without_a_translation_has_no_part(teachers, batch):
    rows = batch["language"] == 1
    names = [name for name, value in batch.items() if torch.is_tensor(value) and len(value) == len(rows)]
    chinese = {name: value[rows] if name in names else value for name, value in batch.items()}
    ensemble = make_ensemble(teachers, languages=(["en"], None))
    first, second = (member.columns for member in ensemble.members)
    text = live(ensemble).texts(chinese).embedding
    assert not text[:, first].any() and text[:, second].any(1).all()


def test_teachers_of_one_space_share_a_part(teachers, tokenizer, batch):
    other = Teacher(make_teacher_model("dcclip", len(tokenizer)), tokenizer, teachers[0].image_processor, "other")
    members = [teachers[0], other]
    ensemble = make_ensemble(members, space=("one", "one"), tower=("both", "text"), languages=(["en"], ["zh"]))
    assert ensemble.projection_dim == teachers[0].projection_dim
    shared = {name: value for name, value in batch.items() if not name.endswith("_1")}  # both have the same tokens
    text = live(ensemble).texts(shared).embedding
    embeddings = [
        F.normalize(teacher.encode_texts(batch["input_ids"], batch["attention_mask"]).embedding, dim=-1)
        for teacher in members
    ]
    expected = torch.where(batch["language"][:, None] == 0, *embeddings)
    torch.testing.assert_close(text, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"'one' has .*clip' with 16 dimensions and .*siglip' with 24, which cannot be one space"),
        ({"weight": (1, 2), "same": True}, "has the weights 1 and 2. A space has one weight"),
        ({"same": True}, "two teachers for the same images or captions"),
        ({"tower": ("vision", "vision"), "same": True}, "two teachers for the same images or captions"),
        ({"tower": ("text", "both"), "languages": (["en"], ["zh", "en"]), "same": True}, "for the same images"),
        ({"tower": ("both", "text"), "languages": (None, ["zh"]), "same": True}, "for the same images"),
    ],
)
def test_teachers_that_cannot_share_a_space_are_refused(teachers, fields, message):
    members = [teachers[0]] * 2 if fields.pop("same", False) else teachers
    with pytest.raises(ValueError, match=message):
        make_ensemble(members, **{"space": ("one", "one"), **fields})


def test_an_ensemble_without_a_tower_of_the_run_is_refused(teachers):
    ensemble = make_ensemble(teachers, tower=("vision", "vision"))
    ensemble.check(("vision",), LANGUAGES)
    with pytest.raises(ValueError, match=r"teachers: none of .* gives targets of the text tower"):
        ensemble.check(TOWERS, LANGUAGES)
    with pytest.raises(ValueError, match=r"teachers.languages: .* has \['fr'\], but data.caption_columns has"):
        make_ensemble(teachers, languages=(["en", "fr"], None)).check(TOWERS, LANGUAGES)


def test_a_teacher_of_images_alone_has_no_part_in_captions(teachers, batch):
    ensemble = make_ensemble(teachers, tower=("both", "vision"))
    image, text = embed(live(ensemble), batch)
    columns = ensemble.members[1].columns
    assert image[:, columns].any(1).all() and not text[:, columns].any()
    assert text[:, ensemble.members[0].columns].any(1).all()


def test_a_bank_has_joint_embeddings(teachers, texts, tmp_path):
    ensemble = make_ensemble(teachers, weight=(1.0, 3.0))
    bank = joint_bank(tmp_path, ensemble, texts, torch.device("cpu"), "logits")
    for member in ensemble.members:
        expected = F.normalize(encode_bank(member.teacher, texts), dim=-1)
        torch.testing.assert_close(F.normalize(bank[:, member.columns], dim=-1), expected)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=r"is \['en'\] for .*, but general_weight needs"):
        joint_bank(
            None, make_ensemble(teachers, languages=(["en"], None)), texts, torch.device("cpu"), "general_weight"
        )


def read_files(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*.*") if ".dcclip" not in file.parts and file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_a_cache_of_two_teachers_equals_those_of_each_alone_to_the_bit(
    teachers, small_teacher, processor, train_rows, tmp_path
):
    train_rows.select(range(24)).to_parquet(tmp_path / "data.parquet")
    student = make_model(VIT)
    # the first teacher's images are twice as large as the other's, which must not change the other's targets
    first, second = teachers[0], small_teacher
    student.config.image_size = 48

    def run(*chosen: Teacher, cache: str, maps: bool = True) -> Path:
        recipe = DistillRecipe(
            output_dir="none",
            data=DataConfig(train=str(tmp_path / "data.parquet"), in_memory=True),
            student=StudentConfig(),
            teachers=[TeacherConfig(teacher=teacher.name) for teacher in chosen],
            teacher_cache=str(tmp_path / cache),
            teacher_views=2,
        )
        ensemble = Ensemble(chosen, recipe.teachers)
        tokens = caption_tokens(processor.tokenizer, 32, ensemble)
        spec = TargetSpec(TOWERS, grid=(2, 2) if maps else None, token_maps=maps and tokens.has_token_targets)
        open_inputs(recipe, Models(student, processor, ensemble), tokens, spec, Accelerator(cpu=True))
        return tmp_path / cache

    together = run(first, second, cache="together")
    own = {t.revision: read_files(together / f"teacher-{t.revision[:16]}") for t in (first, second)}
    assert set(own[first.revision]) == set(own[second.revision]) > {"images.json", "captions.json"}
    # maps come from the first teacher only
    assert read_files(run(second, cache="second", maps=False)) == own[second.revision]
    alone = run(first, cache="one_by_one")
    before = {file: file.stat().st_mtime_ns for file in alone.rglob("*.*")}
    assert read_files(alone) == own[first.revision]
    run(first, second, cache="one_by_one")
    assert {file: file.stat().st_mtime_ns for file in before} == before  # only the second teacher was computed
    assert read_files(alone / f"teacher-{second.revision[:16]}") == own[second.revision]


@pytest.mark.slow
def test_cached_joint_targets_equal_live_ones(teachers, dataset, batch, tmp_path):
    ensemble = make_ensemble(teachers, languages=(None, ["zh"]))
    sources = []
    for member in ensemble.members:
        folder, tokens = find_targets(tmp_path, member.teacher, False), dataset.tokens.further.get(member.number)
        spec = TargetSpec(TOWERS)
        source = build_target_cache(folder, member.teacher, dataset, AUGMENT, spec, 2, tokens=tokens)
        sources.append((member, source))
    cached = JointTargets(sources, ensemble.projection_dim, LANGUAGES)
    assert cached.num_views == 2
    for found, expected in zip(embed(cached, batch), embed(live(ensemble), batch), strict=True):
        torch.testing.assert_close(found, expected, rtol=4e-3, atol=4e-3)


def test_targets_of_a_teacher_are_found_alone_and_among_others(teachers, dataset, tmp_path):
    teacher, own = teachers[0], f"teacher-{teachers[0].revision[:16]}"
    assert find_targets(tmp_path, teacher, True) == tmp_path and find_targets(tmp_path, teacher, False).name == own
    build_target_cache(tmp_path, teacher, dataset, AUGMENT, TargetSpec(("text",)), 1)
    assert find_targets(tmp_path, teacher, False) == tmp_path  # a cache from before there were several
    shutil.copytree(tmp_path, tmp_path / "moved" / own)
    assert find_targets(tmp_path / "moved", teacher, True).name == own


def test_the_name_has_the_weights_if_they_differ(teachers):
    names = [teacher.name for teacher in teachers]
    assert make_ensemble(teachers).name == " + ".join(names)
    assert make_ensemble(teachers, weight=(2, 0.5)).name == f"{names[0]} (2) + {names[1]} (0.5)"


def test_licences_of_all_teachers_are_kept(teachers):
    for teacher, license in zip(teachers, ("mit", "cc-by-nc-4.0"), strict=True):
        teacher.__dict__["license"] = license
    assert make_ensemble(teachers).license == "mit and cc-by-nc-4.0"
    teachers[0].__dict__["license"] = None
    assert make_ensemble(teachers).license == "unknown and cc-by-nc-4.0"
    assert make_ensemble(teachers[:1]).license is None


def test_an_entry_for_no_captions_is_refused():
    with pytest.raises(ValueError, match=r"teachers.languages: is"):
        TeacherConfig(teacher="a", tower="vision", languages=["en"])
    with pytest.raises(ValueError, match=r"teachers.weight: must be above 0, got 0. Leave the teacher out instead."):
        replace(TeacherConfig(teacher="a"), weight=0)
