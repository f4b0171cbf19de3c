"""A Hub in memory with the methods of `HfApi` that an upload calls, and with failures on demand.

It behaves as huggingface_hub 2 and the Hub's API document it.
"""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError


def http_error(status: int) -> HfHubHTTPError:
    return HfHubHTTPError(
        f"status {status}", response=SimpleNamespace(status_code=status, headers={}, request=None)
    )


@dataclass
class FakeHub:
    """One repo. A failure is the name of a method, an error, and whether the response alone is lost."""

    private: bool | None = None  # None before the repo is created
    commits: list[tuple[str, dict[str, bytes]]] = field(
        default_factory=lambda: [("initial", {".gitattributes": b""})]
    )
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0"})
    tags: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[str, Exception, bool]] = field(default_factory=list)

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[int(self.branches[branch])][1]

    def commit(self, files: dict[str, bytes], title: str = "by hand", branch: str = "main") -> str:
        self.commits.append((title, files))
        self.branches[branch] = str(len(self.commits) - 1)
        return self.branches[branch]

    def __getattr__(self, name: str):
        method = getattr(type(self), f"_{name}")

        def call(*arguments: object, **options: object):
            inspect.signature(getattr(HfApi, name)).bind(
                self, *arguments, **options
            )  # as the real one would
            failure = next((each for each in self.failures if each[0] == name), None)
            if failure is None or failure[2]:
                result = method(self, *arguments, **options)
            if failure is not None:
                self.failures.remove(failure)
                raise failure[1]
            return result

        return call

    def _create_repo(self, repo_id, private=None, exist_ok=False):
        if self.private is not None and not exist_ok:
            raise http_error(409)
        self.private = bool(private) if self.private is None else self.private

    def _repo_info(self, repo_id, revision="main"):
        if self.private is None or revision not in self.branches:
            raise http_error(404)
        return SimpleNamespace(private=self.private, sha=self.branches[revision])

    def _create_branch(self, repo_id, branch, exist_ok=False):
        if branch in self.branches and not exist_ok:
            raise http_error(409)
        self.branches.setdefault(branch, self.branches["main"])

    def _list_repo_files(self, repo_id, revision):
        return [*self.files(revision)]

    def _list_repo_refs(self, repo_id):
        return SimpleNamespace(
            tags=[SimpleNamespace(name=n, target_commit=oid) for n, oid in self.tags.items()]
        )

    def _create_tag(self, repo_id, tag, revision):
        self.tags[tag] = revision

    def _create_commit(self, repo_id, operations, commit_message, revision, parent_commit):
        if parent_commit != self.branches[revision]:
            raise http_error(412)
        files = dict(self.files(revision))
        for operation in operations:
            if isinstance(operation, CommitOperationDelete):
                del files[operation.path_in_repo]
            else:
                files[operation.path_in_repo] = Path(operation.path_or_fileobj).read_bytes()
        if files != self.files(revision):  # huggingface_hub makes no empty commit
            self.commit(files, commit_message, revision)
        oid = self.branches[revision]
        return SimpleNamespace(oid=oid, commit_url=f"https://huggingface.co/{repo_id}/commit/{oid}")
