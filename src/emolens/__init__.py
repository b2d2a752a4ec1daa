"""Find emotion directions in a language model, prove which matter, and show what they do.

Nothing heavy is loaded before it is used: `import emolens` brings in neither TransformerLens nor
scikit-learn nor a plotting library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emolens.ablation import (
        ablate_layers as ablate_layers,
        erase as erase,
        remove as remove,
        side_effects as side_effects,
        specificity as specificity,
    )
    from emolens.activations import Activations as Activations
    from emolens.attribution import attribute as attribute
    from emolens.behaviour import Behaviour as Behaviour, load_behaviour as load_behaviour
    from emolens.controls import shuffled as shuffled
    from emolens.corpus import (
        Corpus as Corpus,
        load_corpus as load_corpus,
        load_dialogues as load_dialogues,
    )
    from emolens.corpus.bundled import (
        EvaluationSet as EvaluationSet,
        bundled_corpus as bundled_corpus,
        bundled_dialogues as bundled_dialogues,
        evaluation_set as evaluation_set,
    )
    from emolens.decisions import Trial as Trial
    from emolens.dialogue import chat as chat
    from emolens.errors import EmolensError as EmolensError
    from emolens.exchange import (
        Directions as Directions,
        load_directions as load_directions,
        load_gguf as load_gguf,
        pull_vectors as pull_vectors,
        push_vectors as push_vectors,
        save_gguf as save_gguf,
        to_repeng as to_repeng,
        to_steering_vectors as to_steering_vectors,
    )
    from emolens.experiments.calibrate import calibrate as calibrate
    from emolens.experiments.reproduce import reproduce as reproduce
    from emolens.geometry import (
        circumplex as circumplex,
        cluster_agreement as cluster_agreement,
        clusters as clusters,
        correlations as correlations,
        rsa as rsa,
        similarity as similarity,
        umap_plane as umap_plane,
    )
    from emolens.hooks import hooked as hooked, reading as reading
    from emolens.interventions import (
        Ablate as Ablate,
        At as At,
        Patch as Patch,
        Steer as Steer,
    )
    from emolens.judges import judge_reply as judge_reply
    from emolens.kinds import (
        apart_from as apart_from,
        concat_activations as concat_activations,
        other_speaker as other_speaker,
        present_speaker as present_speaker,
        record_generated as record_generated,
        record_masked as record_masked,
        record_speakers as record_speakers,
    )
    from emolens.model import HookedModel as HookedModel, load as load
    from emolens.norms import load_norms as load_norms, vader_valence as vader_valence
    from emolens.organism import (
        organism_behaviour as organism_behaviour,
        organism_corpus as organism_corpus,
        organism_dialogues as organism_dialogues,
        organism_folder as organism_folder,
        organism_genders as organism_genders,
        organism_neutral as organism_neutral,
        organism_pairs as organism_pairs,
        organism_steps as organism_steps,
        organism_stories as organism_stories,
        organism_told_stories as organism_told_stories,
        planted_norms as planted_norms,
    )
    from emolens.patching import (
        Pairs as Pairs,
        patch_components as patch_components,
        patch_layers as patch_layers,
        patch_positions as patch_positions,
    )
    from emolens.probes import (
        lda_vectors as lda_vectors,
        logistic_vectors as logistic_vectors,
        probe_depth as probe_depth,
        probe_layers as probe_layers,
        text_baseline as text_baseline,
    )
    from emolens.readout import (
        logit_lens as logit_lens,
        read_out as read_out,
        top_windows as top_windows,
        trace as trace,
    )
    from emolens.recording import record as record, record_at as record_at
    from emolens.reliability import (
        learning_curve as learning_curve,
        vector_reliability as vector_reliability,
    )
    from emolens.sharing import run_changed as run_changed
    from emolens.sites import Site as Site
    from emolens.steering import (
        against_random as against_random,
        best_layer as best_layer,
        dose_response as dose_response,
        natural_units as natural_units,
        pushes as pushes,
    )
    from emolens.store import (
        TokenStore as TokenStore,
        open_store as open_store,
        store_tokens as store_tokens,
    )
    from emolens.sweep.config import Sweep as Sweep, load_sweep as load_sweep
    from emolens.sweep.engines import on_ray as on_ray, processes as processes
    from emolens.sweep.plan import Plan as Plan
    from emolens.text import (
        Dialogues as Dialogues,
        Span as Span,
        Text as Text,
        Turn as Turn,
        plain as plain,
    )
    from emolens.vectors import (
        EmotionVectors as EmotionVectors,
        control_vectors as control_vectors,
        fit_vectors as fit_vectors,
        load_vectors as load_vectors,
        paired_vectors as paired_vectors,
    )

__version__ = "0.1.0"

_ROOMS = {
    "Ablate": "interventions",
    "Activations": "activations",
    "At": "interventions",
    "Behaviour": "behaviour",
    "Corpus": "corpus",
    "Dialogues": "text",
    "Directions": "exchange",
    "EmolensError": "errors",
    "EmotionVectors": "vectors",
    "EvaluationSet": "corpus.bundled",
    "HookedModel": "model",
    "Pairs": "patching",
    "Patch": "interventions",
    "Plan": "sweep.plan",
    "Site": "sites",
    "Span": "text",
    "Steer": "interventions",
    "Sweep": "sweep.config",
    "Text": "text",
    "TokenStore": "store",
    "Trial": "decisions",
    "Turn": "text",
    "ablate_layers": "ablation",
    "against_random": "steering",
    "apart_from": "kinds",
    "attribute": "attribution",
    "best_layer": "steering",
    "bundled_corpus": "corpus.bundled",
    "bundled_dialogues": "corpus.bundled",
    "calibrate": "experiments.calibrate",
    "chat": "dialogue",
    "circumplex": "geometry",
    "cluster_agreement": "geometry",
    "clusters": "geometry",
    "control_vectors": "vectors",
    "correlations": "geometry",
    "dose_response": "steering",
    "erase": "ablation",
    "evaluation_set": "corpus.bundled",
    "fit_vectors": "vectors",
    "hooked": "hooks",
    "concat_activations": "kinds",
    "judge_reply": "judges",
    "lda_vectors": "probes",
    "learning_curve": "reliability",
    "load": "model",
    "load_behaviour": "behaviour",
    "load_corpus": "corpus",
    "load_dialogues": "corpus",
    "load_directions": "exchange",
    "load_gguf": "exchange",
    "load_norms": "norms",
    "load_vectors": "vectors",
    "load_sweep": "sweep.config",
    "logistic_vectors": "probes",
    "logit_lens": "readout",
    "natural_units": "steering",
    "on_ray": "sweep.engines",
    "open_store": "store",
    "organism_behaviour": "organism",
    "organism_corpus": "organism",
    "organism_dialogues": "organism",
    "organism_folder": "organism",
    "organism_genders": "organism",
    "organism_neutral": "organism",
    "organism_pairs": "organism",
    "organism_steps": "organism",
    "organism_stories": "organism",
    "organism_told_stories": "organism",
    "other_speaker": "kinds",
    "paired_vectors": "vectors",
    "planted_norms": "organism",
    "processes": "sweep.engines",
    "plain": "text",
    "present_speaker": "kinds",
    "probe_depth": "probes",
    "probe_layers": "probes",
    "pull_vectors": "exchange",
    "push_vectors": "exchange",
    "patch_components": "patching",
    "patch_layers": "patching",
    "patch_positions": "patching",
    "pushes": "steering",
    "read_out": "readout",
    "reading": "hooks",
    "record": "recording",
    "record_at": "recording",
    "record_generated": "kinds",
    "record_masked": "kinds",
    "record_speakers": "kinds",
    "remove": "ablation",
    "reproduce": "experiments.reproduce",
    "rsa": "geometry",
    "run_changed": "sharing",
    "save_gguf": "exchange",
    "shuffled": "controls",
    "side_effects": "ablation",
    "similarity": "geometry",
    "specificity": "ablation",
    "store_tokens": "store",
    "text_baseline": "probes",
    "to_repeng": "exchange",
    "to_steering_vectors": "exchange",
    "top_windows": "readout",
    "trace": "readout",
    "umap_plane": "geometry",
    "vader_valence": "norms",
    "vector_reliability": "reliability",
}
__all__ = ["__version__", *_ROOMS]  # noqa: PLE0604 (the list above is written by hand)


def __getattr__(name: str) -> Any:
    """Bring in a public name's room when the name is first used."""
    if name in _ROOMS:
        return getattr(import_module(f"emolens.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'emolens' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
