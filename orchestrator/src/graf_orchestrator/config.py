"""Configuration file of graf-manager."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class ConfigError(Exception):
    """The configuration file is unusable; the message names file, field, cause and fix."""


class _Config(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class GitConfig(_Config):
    """The GitOps repository."""

    url: str = Field(min_length=1, description="URL that git fetches from and pushes to.")
    branch: str = Field(default="main", description="The branch; nothing else is read or written.")
    poll_seconds: float = Field(default=5.0, ge=0.2, le=3600, description="How often the branch is looked at.")
    work_dir: Path = Field(
        default=Path("/var/lib/graf/manager/repo"),
        description="Bare clone; decisions that are not pushed yet are kept beside it, in `journal`.",
    )


class AuthorConfig(_Config):
    """Who the commits of decisions are by."""

    name: str = "GRAF Redundancy Manager"
    email: str = "manager@graf.dev"


class ElectionConfig(_Config):
    """Leader election by a coordination.k8s.io Lease."""

    lease_name: str = "graf-manager"
    lease_seconds: int = Field(default=8, ge=3, le=300)
    renew_seconds: int = Field(default=5, ge=2, le=299)
    retry_seconds: int = Field(default=1, ge=1, le=60)


class ManagerConfig(_Config):
    """graf-manager."""

    listen: str = Field(default="0.0.0.0:7445", description="Where controllers dial in.")
    tls_dir: Path = Path("/etc/graf/tls")
    namespace: str = "graf-system"
    kubeconfig: Path | None = Field(default=None, description="Left out: the Pod's service account.")
    git: GitConfig
    author: AuthorConfig = Field(default_factory=AuthorConfig)
    election: ElectionConfig = Field(default_factory=ElectionConfig)


def load(path: Path) -> ManagerConfig:
    """Reads the file.

    Raises:
        ConfigError: it is missing, no YAML, or a field is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; mount the ConfigMap graf-config there or name another file "
            "with --config"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}; correct it and start again") from error
    try:
        config = ManagerConfig.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {problems}; see docs/reference/manager.md") from error
    election = config.election
    if not election.lease_seconds > election.renew_seconds > 1.2 * election.retry_seconds:
        raise ConfigError(
            f"{path}: election: leaseSeconds > renewSeconds > 1.2 * retrySeconds must hold; leave them out for 8, 5, 1"
        )
    return config
