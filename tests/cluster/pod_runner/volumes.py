"""The content of a pod's volumes and variables, fetched from the API server."""

import base64
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner.expansion import expand

Json = dict[str, Any]


class NotThere(Exception):
    """A Secret or a ConfigMap that the pod needs does not exist. The text is the kubelet's."""


class VolumeNotThere(NotThere):
    """It is needed as a volume."""


@dataclass(frozen=True)
class Mount:
    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True)
class Supplies:
    """Provides what one pod mounts, below `folder`. Claims outlive the pod."""

    cluster: Cluster
    pod: Json
    folder: Path
    claims: Path

    @property
    def namespace(self) -> str:
        return str(self.pod["metadata"]["namespace"])

    def mounts(self, container: Json) -> list[Mount]:
        volumes = {volume["name"]: volume for volume in self.pod["spec"].get("volumes", ())}
        made = []
        for mount in container.get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            try:
                source = self._make_folder(volume)
            except NotThere as error:
                raise VolumeNotThere(
                    f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
                ) from error
            if sub_path := mount.get("subPath"):
                source = source / sub_path
                if not source.exists():
                    source.mkdir(parents=True)
                    source.chmod(0o777)
            read_only = bool(mount.get("readOnly")) or not {
                "secret",
                "configMap",
                "projected",
                "downwardAPI",
            }.isdisjoint(volume)
            made.append(Mount(source, mount["mountPath"], read_only))
        return made

    def refresh(self) -> None:
        """Update the files that show the pod's labels and annotations, as a kubelet does."""
        for volume in self.pod["spec"].get("volumes", ()):
            if "downwardAPI" in volume and (self.folder / "volumes" / volume["name"]).exists():
                self._make_folder(volume)

    def variables(self, container: Json) -> dict[str, str]:
        found: dict[str, str] = {}
        for each in container.get("envFrom", ()):
            kind, reference = (
                ("secret", each["secretRef"])
                if "secretRef" in each
                else ("configmap", each["configMapRef"])
            )
            if (
                data := self._data(kind, reference["name"], bool(reference.get("optional")))
            ) is not None:
                found |= {key: value.decode() for key, value in data.items()}
        for each in container.get("env", ()):
            value = self._variable(each)
            if value is not None:
                found[each["name"]] = value if each.get("valueFrom") else expand(value, found)
        return found

    def _variable(self, variable: Json) -> str | None:
        source = variable.get("valueFrom")
        if not source:
            return str(variable.get("value", ""))
        if reference := source.get("fieldRef"):
            return self._field(reference["fieldPath"])
        kind, reference = (
            ("secret", source["secretKeyRef"])
            if "secretKeyRef" in source
            else ("configmap", source["configMapKeyRef"])
        )
        data = self._data(kind, reference["name"], bool(reference.get("optional")))
        if data is None or reference["key"] not in data:
            if reference.get("optional"):
                return None
            raise NotThere(
                f"couldn't find key {reference['key']} in {kind} "
                f"{self.namespace}/{reference['name']}"
            )
        return data[reference["key"]].decode()

    def _field(self, path: str) -> str:
        metadata = self.pod["metadata"]
        if match := re.fullmatch(r"metadata\.(annotations|labels)\['(.+)'\]", path):
            return str(metadata.get(match[1], {}).get(match[2], ""))
        plain: dict[str, Callable[[], str]] = {
            "metadata.name": lambda: metadata["name"],
            "metadata.namespace": lambda: metadata["namespace"],
            "metadata.uid": lambda: metadata["uid"],
            "status.podIP": lambda: "127.0.0.1",
            "status.hostIP": lambda: "127.0.0.1",
            "spec.nodeName": lambda: "node-1",
            "spec.serviceAccountName": lambda: self.pod["spec"].get(
                "serviceAccountName", "default"
            ),
        }
        return plain[path]()

    def _make_folder(self, volume: Json) -> Path:
        folder: Path
        if claim := volume.get("persistentVolumeClaim"):
            folder = self.claims / self.namespace / claim["claimName"]
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            return folder
        folder = self.folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            folder.chmod(0o777)
            return folder
        for name, data, mode in self._files(volume):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(
                f".{path.name}.{threading.get_ident()}"
            )  # two threads may write it at the same time
            part.write_bytes(data)
            part.chmod(mode)
            group = self.pod["spec"].get("securityContext", {}).get("fsGroup")
            if group is not None:
                os.chown(part, 0, group)
            part.rename(path)  # a reader sees the old or the new content
        return folder

    def _files(self, volume: Json) -> Iterator[tuple[str, bytes, int]]:
        if projected := volume.get("projected"):
            for source in projected["sources"]:
                yield from self._projected(source, projected.get("defaultMode", 0o644))
            return
        if downward := volume.get("downwardAPI"):
            yield from self._fields(downward, downward.get("defaultMode", 0o644))
            return
        kind = "secret" if "secret" in volume else "configmap"
        source = volume["secret"] if kind == "secret" else volume["configMap"]
        name = source.get("secretName") or source.get("name")
        data = self._data(kind, name, bool(source.get("optional")))
        yield from _selected(data or {}, source, source.get("defaultMode", 0o644))

    def _projected(self, source: Json, mode: int) -> Iterator[tuple[str, bytes, int]]:
        if token := source.get("serviceAccountToken"):
            account = self._field("spec.serviceAccountName")
            path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
            body = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 7200},
            }
            issued = self.cluster.api.request("POST", path, body=body)["status"]["token"]
            yield token["path"], issued.encode(), 0o644
        elif api := source.get("downwardAPI"):
            yield from self._fields(api, mode)
        else:
            kind = "secret" if "secret" in source else "configmap"
            reference = source["secret"] if kind == "secret" else source["configMap"]
            data = self._data(kind, reference["name"], bool(reference.get("optional")))
            yield from _selected(data or {}, reference, mode)

    def _fields(self, downward: Json, mode: int) -> Iterator[tuple[str, bytes, int]]:
        for item in downward["items"]:
            yield item["path"], self._field(item["fieldRef"]["fieldPath"]).encode(), mode

    def _data(self, kind: str, name: str, optional: bool) -> dict[str, bytes] | None:
        found = self.cluster.find(f"/api/v1/namespaces/{self.namespace}/{kind}s/{name}")
        if found is None:
            if optional:
                return None
            raise NotThere(f'{kind} "{name}" not found')
        data = found.get("data") or {}
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in data.items()}
        return {key: value.encode() for key, value in data.items()}


def _selected(data: dict[str, bytes], source: Json, mode: int) -> Iterator[tuple[str, bytes, int]]:
    if items := source.get("items"):
        for item in items:
            if item["key"] in data:
                yield item["path"], data[item["key"]], item.get("mode", mode)
            elif not source.get("optional"):
                raise NotThere(f"references non-existent secret key: {item['key']}")
    else:
        for name, value in data.items():
            yield name, value, mode
