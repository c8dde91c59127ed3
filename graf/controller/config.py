"""Configuration files of graf-controller and graf-witness."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class ConfigError(Exception):
    """A configuration file is unusable; the message names file, field, cause and fix."""


class _Config(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class ManagerEndpoint(_Config):
    """Where the Redundancy Manager listens."""

    endpoint: str = Field(description="host:port that the controller dials.")
    server_name: str = Field(default="manager.graf.dev", description="Name that its certificate must carry.")


class ControllerConfig(_Config):
    """graf-controller, one per site."""

    site: str = Field(min_length=1, description="Name of this site; the certificate must say <site>.voter.graf.dev.")
    listen: str = Field(default="0.0.0.0:7443", description="Where peers dial in.")
    manager: ManagerEndpoint
    tls_dir: Path = Path("/etc/graf/tls")
    data_dir: Path = Path("/var/lib/graf/controller")
    driver_socket_dir: Path = Path("/run/graf/drivers")
    namespace: str = "graf-system"
    kubernetes: bool = Field(default=True, description="False runs without an API server: no drivers are deployed.")


class WitnessConfig(_Config):
    """graf-witness, the voter alone."""

    name: str = Field(min_length=1, description="Voter name; the certificate must say <name>.voter.graf.dev.")
    listen: str = Field(default="0.0.0.0:7444", description="Where controllers dial in.")
    tls_dir: Path = Path("/etc/graf/tls")
    data_dir: Path = Path("/var/lib/graf/witness")


ConfigT = TypeVar("ConfigT", ControllerConfig, WitnessConfig)


def load(path: Path, model: type[ConfigT]) -> ConfigT:
    """Reads a configuration file.

    Raises:
        ConfigError: the file is missing, no YAML, or a field is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; mount the ConfigMap graf-config there") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {problems}; see docs/reference/configuration.md") from error
