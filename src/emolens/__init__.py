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
    from emolens.attribution import attribute as attribute, lens as lens, share_along as share_along
    from emolens.behaviour import (
        Behaviour as Behaviour,
        Contest as Contest,
        load_behaviour as load_behaviour,
    )
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
    from emolens.curation import score_corpus as score_corpus
    from emolens.decisions import Trial as Trial
    from emolens.dialogue import chat as chat
    from emolens.doses import (
        decision_measure as decision_measure,
        dose_curves as dose_curves,
        dose_ladder as dose_ladder,
        over_tasks as over_tasks,
    )
    from emolens.errors import EmolensError as EmolensError
    from emolens.evals import by_inspect as by_inspect, code_task as code_task
    from emolens.exchange import (
        Directions as Directions,
        load_directions as load_directions,
        load_gguf as load_gguf,
        pull_vectors as pull_vectors,
        push_vectors as push_vectors,
        save_gguf as save_gguf,
        steering_specs as steering_specs,
        to_repeng as to_repeng,
        to_steering_vectors as to_steering_vectors,
    )
    from emolens.experiments.calibrate import calibrate as calibrate
    from emolens.experiments.compare import compare_models as compare_models
    from emolens.experiments.paper.catalogue import paper_experiments as paper_experiments
    from emolens.experiments.paper.claims import judge as judge
    from emolens.experiments.paper.materials import bundled_materials as bundled_materials
    from emolens.experiments.paper.organism import organism_materials as organism_materials
    from emolens.experiments.paper.running import run_experiments as run_experiments
    from emolens.experiments.paper.study import Study as Study
    from emolens.experiments.prevention import prevent_shift as prevent_shift
    from emolens.experiments.reproduce import reproduce as reproduce
    from emolens.generation import (
        Steering as Steering,
        fading as fading,
        from_step as from_step,
        generate as generate,
        never as never,
        throughout as throughout,
    )
    from emolens.geometry import (
        circumplex as circumplex,
        cluster_agreement as cluster_agreement,
        clusters as clusters,
        correlations as correlations,
        rsa as rsa,
        similarity as similarity,
        umap_plane as umap_plane,
    )
    from emolens.guard import (
        AskAgain as AskAgain,
        Guard as Guard,
        Log as Log,
        Regulate as Regulate,
        Stop as Stop,
        acted as acted,
    )
    from emolens.holding import (
        guard_effect as guard_effect,
        random_regulation as random_regulation,
        regulation as regulation,
    )
    from emolens.hooks import hooked as hooked, reading as reading
    from emolens.interventions import (
        Ablate as Ablate,
        At as At,
        Clamp as Clamp,
        Hold as Hold,
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
    from emolens.masking import (
        by_sentiment as by_sentiment,
        by_words as by_words,
        felt_and_shown as felt_and_shown,
    )
    from emolens.model import HookedModel as HookedModel, load as load
    from emolens.monitor import Monitor as Monitor
    from emolens.norms import load_norms as load_norms, vader_valence as vader_valence
    from emolens.organism import (
        organism_activities as organism_activities,
        organism_behaviour as organism_behaviour,
        organism_contest as organism_contest,
        organism_corpus as organism_corpus,
        organism_dialogues as organism_dialogues,
        organism_folder as organism_folder,
        organism_genders as organism_genders,
        organism_neutral as organism_neutral,
        organism_pairs as organism_pairs,
        organism_steps as organism_steps,
        organism_stories as organism_stories,
        organism_told_stories as organism_told_stories,
        organism_turns as organism_turns,
        organism_world as organism_world,
        planted_groups as planted_groups,
        planted_norms as planted_norms,
        planted_ratings as planted_ratings,
    )
    from emolens.patching import (
        Pairs as Pairs,
        patch_components as patch_components,
        patch_layers as patch_layers,
        patch_positions as patch_positions,
    )
    from emolens.paths import (
        evoking_words as evoking_words,
        occluded as occluded,
        path_view as path_view,
    )
    from emolens.preferences import (
        compare as compare,
        contest as contest,
        preference_steering as preference_steering,
        ratings as ratings,
    )
    from emolens.pressing import (
        pressed_against_dry as pressed_against_dry,
        pressing_words as pressing_words,
        pressure as pressure,
    )
    from emolens.prevention import train_steered as train_steered
    from emolens.probes import (
        lda_vectors as lda_vectors,
        logistic_vectors as logistic_vectors,
        probe_depth as probe_depth,
        probe_layers as probe_layers,
        text_baseline as text_baseline,
    )
    from emolens.provider import inspect_model as inspect_model
    from emolens.readers import find_readers as find_readers
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
    from emolens.rollouts import (
        agreement as agreement,
        answer_measure as answer_measure,
        answers as answers,
        by_model as by_model,
        by_rule as by_rule,
        rates as rates,
        roll_out as roll_out,
    )
    from emolens.scoring import (
        decide_options as decide_options,
        divergence as divergence,
        option_logprobs as option_logprobs,
        token_logprobs as token_logprobs,
        word_ranks as word_ranks,
    )
    from emolens.sharing import run_changed as run_changed
    from emolens.sites import Site as Site, two_thirds as two_thirds
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
    from emolens.strengths import strength_window as strength_window
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
    from emolens.tradeoffs import (
        measure_cost as measure_cost,
        perplexity_cost as perplexity_cost,
        question_cost as question_cost,
        trade_offs as trade_offs,
        usual_costs as usual_costs,
    )
    from emolens.vectors import (
        EmotionVectors as EmotionVectors,
        control_vectors as control_vectors,
        fit_vectors as fit_vectors,
        load_vectors as load_vectors,
        paired_vectors as paired_vectors,
    )
    from emolens.writers import find_writers as find_writers

__version__ = "0.1.0"

_ROOMS = {
    "Ablate": "interventions",
    "Activations": "activations",
    "AskAgain": "guard",
    "At": "interventions",
    "Behaviour": "behaviour",
    "Clamp": "interventions",
    "Contest": "behaviour",
    "Corpus": "corpus",
    "Dialogues": "text",
    "Directions": "exchange",
    "EmolensError": "errors",
    "EmotionVectors": "vectors",
    "EvaluationSet": "corpus.bundled",
    "Guard": "guard",
    "Hold": "interventions",
    "HookedModel": "model",
    "Log": "guard",
    "Monitor": "monitor",
    "Pairs": "patching",
    "Patch": "interventions",
    "Plan": "sweep.plan",
    "Regulate": "guard",
    "Site": "sites",
    "Span": "text",
    "Steer": "interventions",
    "Steering": "generation",
    "Stop": "guard",
    "Study": "experiments.paper.study",
    "Sweep": "sweep.config",
    "Text": "text",
    "TokenStore": "store",
    "Trial": "decisions",
    "Turn": "text",
    "ablate_layers": "ablation",
    "acted": "guard",
    "against_random": "steering",
    "agreement": "rollouts",
    "answer_measure": "rollouts",
    "answers": "rollouts",
    "apart_from": "kinds",
    "attribute": "attribution",
    "best_layer": "steering",
    "bundled_corpus": "corpus.bundled",
    "bundled_dialogues": "corpus.bundled",
    "bundled_materials": "experiments.paper.materials",
    "by_inspect": "evals",
    "by_model": "rollouts",
    "by_rule": "rollouts",
    "by_sentiment": "masking",
    "by_words": "masking",
    "calibrate": "experiments.calibrate",
    "chat": "dialogue",
    "circumplex": "geometry",
    "cluster_agreement": "geometry",
    "clusters": "geometry",
    "code_task": "evals",
    "compare": "preferences",
    "compare_models": "experiments.compare",
    "concat_activations": "kinds",
    "contest": "preferences",
    "control_vectors": "vectors",
    "correlations": "geometry",
    "decide_options": "scoring",
    "decision_measure": "doses",
    "divergence": "scoring",
    "dose_curves": "doses",
    "dose_ladder": "doses",
    "dose_response": "steering",
    "erase": "ablation",
    "evaluation_set": "corpus.bundled",
    "evoking_words": "paths",
    "fading": "generation",
    "felt_and_shown": "masking",
    "find_readers": "readers",
    "find_writers": "writers",
    "fit_vectors": "vectors",
    "from_step": "generation",
    "generate": "generation",
    "guard_effect": "holding",
    "hooked": "hooks",
    "inspect_model": "provider",
    "judge": "experiments.paper.claims",
    "judge_reply": "judges",
    "lda_vectors": "probes",
    "learning_curve": "reliability",
    "lens": "attribution",
    "load": "model",
    "load_behaviour": "behaviour",
    "load_corpus": "corpus",
    "load_dialogues": "corpus",
    "load_directions": "exchange",
    "load_gguf": "exchange",
    "load_norms": "norms",
    "load_sweep": "sweep.config",
    "load_vectors": "vectors",
    "logistic_vectors": "probes",
    "logit_lens": "readout",
    "measure_cost": "tradeoffs",
    "natural_units": "steering",
    "never": "generation",
    "occluded": "paths",
    "on_ray": "sweep.engines",
    "open_store": "store",
    "option_logprobs": "scoring",
    "organism_activities": "organism",
    "organism_behaviour": "organism",
    "organism_contest": "organism",
    "organism_corpus": "organism",
    "organism_dialogues": "organism",
    "organism_folder": "organism",
    "organism_genders": "organism",
    "organism_materials": "experiments.paper.organism",
    "organism_neutral": "organism",
    "organism_pairs": "organism",
    "organism_steps": "organism",
    "organism_stories": "organism",
    "organism_told_stories": "organism",
    "organism_turns": "organism",
    "organism_world": "organism",
    "other_speaker": "kinds",
    "over_tasks": "doses",
    "paired_vectors": "vectors",
    "paper_experiments": "experiments.paper.catalogue",
    "patch_components": "patching",
    "patch_layers": "patching",
    "patch_positions": "patching",
    "path_view": "paths",
    "perplexity_cost": "tradeoffs",
    "plain": "text",
    "planted_groups": "organism",
    "planted_norms": "organism",
    "planted_ratings": "organism",
    "preference_steering": "preferences",
    "present_speaker": "kinds",
    "pressed_against_dry": "pressing",
    "pressing_words": "pressing",
    "pressure": "pressing",
    "prevent_shift": "experiments.prevention",
    "probe_depth": "probes",
    "probe_layers": "probes",
    "processes": "sweep.engines",
    "pull_vectors": "exchange",
    "push_vectors": "exchange",
    "pushes": "steering",
    "question_cost": "tradeoffs",
    "random_regulation": "holding",
    "rates": "rollouts",
    "ratings": "preferences",
    "read_out": "readout",
    "reading": "hooks",
    "record": "recording",
    "record_at": "recording",
    "record_generated": "kinds",
    "record_masked": "kinds",
    "record_speakers": "kinds",
    "regulation": "holding",
    "remove": "ablation",
    "reproduce": "experiments.reproduce",
    "roll_out": "rollouts",
    "rsa": "geometry",
    "run_changed": "sharing",
    "run_experiments": "experiments.paper.running",
    "save_gguf": "exchange",
    "score_corpus": "curation",
    "share_along": "attribution",
    "shuffled": "controls",
    "side_effects": "ablation",
    "similarity": "geometry",
    "specificity": "ablation",
    "steering_specs": "exchange",
    "store_tokens": "store",
    "strength_window": "strengths",
    "text_baseline": "probes",
    "throughout": "generation",
    "to_repeng": "exchange",
    "to_steering_vectors": "exchange",
    "token_logprobs": "scoring",
    "top_windows": "readout",
    "trace": "readout",
    "trade_offs": "tradeoffs",
    "train_steered": "prevention",
    "two_thirds": "sites",
    "umap_plane": "geometry",
    "usual_costs": "tradeoffs",
    "vader_valence": "norms",
    "vector_reliability": "reliability",
    "word_ranks": "scoring",
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
