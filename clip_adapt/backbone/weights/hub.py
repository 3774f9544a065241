"""Files of the hub, from its cache or the network, and what to do where there is neither."""

from __future__ import annotations

from pathlib import Path

from clip_adapt.errors import InputError


class AbsentFileError(InputError):
    """A repository has none of the files that were asked for."""


def fetch(repository: str, names: tuple[str, ...], remedy: str) -> Path:
    """Return the local path of the first of the named files that a repository has.

    Args:
        repository: ``owner/name``.
        names: file names, the preferred one first; any of them will do.
        remedy: what to give in place of the hub once the file is here, as ``model.pretrained=...``.

    Raises:
        InputError: one line that says which file is missing, where it would be put, and how to
            fetch it elsewhere.
        AbsentFileError: when the repository has none of them.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    unreachable: Exception | None = None
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except HFValidationError as error:
            raise InputError(f"hf-hub:{repository} is not a hub id: expected owner/name") from error
        except RepositoryNotFoundError as error:
            raise InputError(
                f"hf-hub:{repository} does not exist, or is private: check its spelling, or log in "
                "with `hf auth login`"
            ) from error
        except LocalEntryNotFoundError as error:  # offline; it may be in the cache by another name
            unreachable = error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            unreachable = error
    if unreachable is None:
        raise AbsentFileError(f"hf-hub:{repository} has none of the files {', '.join(names)}")
    raise InputError(_explain_offline(repository, names[0], remedy)) from unreachable


def _explain_offline(repository: str, name: str, remedy: str) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return (
        f"{name} of {repository} is missing here and the hub cannot be reached: it would be put "
        f"into {place}. On a machine with a network run `hf download {repository} --local-dir DIR`,"
        f" copy DIR here and give {remedy}"
    )
