"""What goes to the Hugging Face hub: whole folders, after everything is on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from cooper.errors import ConfigError, HubError

# An exported folder's name and what its repository's name ends in.
SUFFIXES = {
    "policy": "",
    "reward_model": "-reward-model",
    "reward_model_average": "-reward-model-average",
}


def repository(push_to_hub: str, role: str) -> str:
    """The repository of one of a run's models."""
    return f"{push_to_hub}{SUFFIXES[role]}"


def check_repository(push_to_hub: str) -> None:
    """Check the name itself, without the network.

    Raises:
        ConfigError: it is no owner/name that the hub takes.
    """
    rule = "give owner/name, as in https://huggingface.co/owner/name"
    try:
        for role in SUFFIXES:
            validate_repo_id(repository(push_to_hub, role))
    except HFValidationError as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"export.push_to_hub={push_to_hub}: {why}; {rule}") from error
    if push_to_hub.count("/") != 1:
        raise ConfigError(f"export.push_to_hub={push_to_hub}: has no owner; {rule}")


def check_account(push_to_hub: str) -> None:
    """Ask the hub, before a long run, whether this account may write there at its end.

    Raises:
        HubError: nobody is logged in, the hub cannot be reached, or the owner is somebody else.
    """
    try:
        account = HfApi().whoami()
    except Exception as error:  # its client hands on the errors of several libraries
        raise HubError(
            f"export.push_to_hub={push_to_hub}: the hub knows no account of yours "
            f"({_first_line(error)}); log in with `hf auth login` or set HF_TOKEN, or leave "
            "export.push_to_hub out and upload the folders after the run"
        ) from error
    owner = push_to_hub.split("/")[0]
    names = [str(account["name"]), *(str(org["name"]) for org in account.get("orgs", []))]
    if owner.lower() not in (name.lower() for name in names):
        raise HubError(
            f"export.push_to_hub={push_to_hub}: the hub's account is {names[0]}, which does not "
            f"belong to {owner}; give one of {', '.join(f'{name}/NAME' for name in names)}"
        )


def push(folders: Sequence[tuple[Path, str]], private: bool, message: str) -> list[str]:
    """Upload whole folders, each into a repository of its own.

    Args:
        folders: each with its repository.
        private: of repositories that are made; one that is there keeps what it is.
        message: of the commits.

    Returns:
        the repositories' addresses.

    Raises:
        HubError: one did not arrive; what to do for it and those behind it. The folders stay.
    """
    api, addresses = HfApi(), []
    for index, (folder, repo_id) in enumerate(folders):
        try:
            made = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except Exception as error:  # as above: whatever it was, the folders are there
            flag = "--private" if private else "--no-private"
            left = "; ".join(f"hf upload {flag} {name} {path} ." for path, name in folders[index:])
            raise HubError(
                f"export.push_to_hub: {repo_id} could not be written ({_first_line(error)}); both "
                f"models are on the disk, push them with: {left}"
            ) from error
        addresses.append(str(made))
    return addresses


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
