"""Both models of a run in Hugging Face form, with their cards, and on the hub by a switch."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from cooper.checkpoints import appearing
from cooper.hub import push, repository
from cooper.models.export import has_adapter, write_model
from cooper.module import CooperModule
from cooper.report import Exported, model_card
from cooper.run_folder import RunFolder


def export(cfg: DictConfig, module: CooperModule, folder: RunFolder) -> list[Exported]:
    """Write the models; each appears when it is whole.

    Raises:
        CheckpointError: they cannot be written.
    """
    models = {"policy": module.policy, "reward_model": module.reward_model}
    if module.average is not None:
        models["reward_model_average"] = module.scoring_model
    written = []
    for role, model in models.items():
        if model is None:
            continue
        target = cfg.export.push_to_hub
        exported = Exported(
            role,
            steps=module.rl_step,
            trained=role == "policy" or module.trains_reward_model,
            adapter=cfg.export.form == "adapter" and has_adapter(model),
            repository=repository(target, role) if target else None,
        )
        with appearing(folder.path / role) as part:
            write_model(model, part, adapter=exported.adapter)
            (part / "README.md").write_text(model_card(folder, exported), encoding="utf-8")
        written.append(exported)
    return written


def push_models(
    cfg: DictConfig, folder: RunFolder, exported: Sequence[Exported], status: str
) -> None:
    """Upload what has been written; only of a run that came to its end.

    Raises:
        HubError: a model did not arrive. Nothing on the disk is touched.
    """
    if status != "finished":
        print(f"the run is {status}: nothing goes to the hub", flush=True)
        return
    places = [(folder.path / e.role, e.repository) for e in exported if e.repository]
    for address in push(places, cfg.export.private, f"{cfg.name}: {exported[0].steps} RL steps"):
        print(f"on the hub: {address}", flush=True)
