"""The settings of the page: `enrollgate web`."""

from ipaddress import ip_address
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from enrollgate.settings.types import TRIMMED, ListenAddress

# Characters of a token, at least: 22 of base64 hold 128 bits.
_LEAST_TOKEN = 16


class WebSettings(BaseModel):
    """Only read by `enrollgate web`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    address: ListenAddress = Field(
        "127.0.0.1",
        description="The IP address that serves the page; `*`: all addresses of the machine. An "
        "address that other machines reach needs ENROLLGATE_WEB__TOKEN or "
        "ENROLLGATE_WEB__BEHIND_PROXY.",
        examples=["*"],
    )
    port: int = Field(8484, ge=1, le=65535, description="The port that serves the page.")
    token: Annotated[SecretStr | None, TRIMMED] = Field(
        None,
        description="Who opens the page must know this token: as the password that the browser "
        "asks for (any user name), or as `Authorization: Bearer`. At least 16 characters.",
    )
    behind_proxy: bool = Field(
        False,
        description="Whether a proxy in front of the page, such as oauth2-proxy, decides who may "
        "open it. Then the page asks for no token and accepts any host name.",
    )

    @field_validator("token")
    @classmethod
    def _long_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _LEAST_TOKEN:
            raise ValueError(
                f"it has fewer than {_LEAST_TOKEN} characters and could be guessed: make one with "
                "`openssl rand -hex 16`"
            )
        return value

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach the page."""
        return self.address != "*" and ip_address(self.address).is_loopback
