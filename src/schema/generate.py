#!/usr/bin/env python3
"""Writes facts.txt, the table of the fields of the served kinds, from upstream's published definitions.

Usage: generate.py PATH/TO/_definitions.json > facts.txt

The input is `kubernetes-json-schema/v1.36.*-local-strict/_definitions.json` inside the PyPI package
`kubernetes-validate` 1.36 or 1.37. Standard library only; the output depends on nothing but the input.
"""
import json
import sys

API = "io.k8s.api."
META = "io.k8s.apimachinery.pkg.apis."

KINDS = """
core.v1.Namespace core.v1.Node core.v1.Pod core.v1.ConfigMap core.v1.Secret core.v1.ServiceAccount core.v1.Service
core.v1.Endpoints core.v1.Event core.v1.Binding core.v1.ObjectReference apps.v1.Deployment apps.v1.ReplicaSet
apps.v1.DaemonSet apps.v1.ControllerRevision rbac.v1.Role rbac.v1.RoleBinding rbac.v1.ClusterRole
rbac.v1.ClusterRoleBinding
coordination.v1.Lease discovery.v1.EndpointSlice events.v1.Event authentication.v1.TokenReview
authentication.v1.TokenRequest authentication.v1.SelfSubjectReview authorization.v1.SelfSubjectAccessReview
authorization.v1.SelfSubjectRulesReview authorization.v1.SubjectAccessReview
authorization.v1.LocalSubjectAccessReview autoscaling.v1.Scale policy.v1.Eviction
meta.v1.DeleteOptions meta.v1.Status meta.v1.ListMeta meta.v1.APIResourceList meta.v1.APIGroup meta.v1.APIGroupList
meta.v1.APIVersions
""".split()

LEAVES = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "microtime",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "any",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "any",
}

# Strings behind pointers whose empty text differs from absence.
KEEPS_EMPTY = {
    ("discovery.v1.EndpointPort", "name"),
    ("coordination.v1.LeaseSpec", "holderIdentity"),
    ("core.v1.PersistentVolumeClaimSpec", "storageClassName"),
    ("core.v1.PersistentVolumeClaimSpec", "volumeAttributesClassName"),
    ("core.v1.SELinuxOptions", "level"),
    ("core.v1.HostPathVolumeSource", "type"),
    ("core.v1.GRPCAction", "service"),
}


def short(name):
    for prefix in (API, META):
        if name.startswith(prefix):
            return name[len(prefix):]
    raise SystemExit("unexpected definition " + name)


def full(name):
    return (META if name.startswith("meta.") else API) + name


def plain_type(schema):
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = [k for k in kinds if k != "null"]
        return kinds[0] if kinds else None
    return kinds


def shape(schema, wanted):
    if "$ref" in schema:
        name = schema["$ref"].split("/")[-1]
        if name in LEAVES:
            return LEAVES[name]
        wanted.append(short(name))
        return short(name)
    kind, form = plain_type(schema), schema.get("format")
    if kind == "array":
        return "[" + shape(schema["items"], wanted) + "]"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return "{" + shape(inner, wanted) + "}" if isinstance(inner, dict) else "any"
    if kind == "string":
        return {"byte": "bytes", "date-time": "time"}.get(form, "string")
    if kind == "integer":
        return form if form in ("int32", "int64") else "int64"
    if kind in ("boolean", "number"):
        return {"boolean": "bool", "number": "number"}[kind]
    raise SystemExit("unexpected schema " + json.dumps(schema))


def field_line(owner, name, schema, required, wanted):
    words = [name, shape(schema, wanted)]
    if name in required:
        words.append("required")
    if (owner, name) in KEEPS_EMPTY:
        words.append("keeps-empty")
    if "x-kubernetes-list-type" in schema:
        keys = ",".join(schema.get("x-kubernetes-list-map-keys", []))
        words.append("list=" + schema["x-kubernetes-list-type"] + (":" + keys if keys else ""))
    if schema.get("x-kubernetes-map-type"):
        words.append("map=" + schema["x-kubernetes-map-type"])
    if "x-kubernetes-patch-merge-key" in schema:
        words.append("merge=" + schema["x-kubernetes-patch-merge-key"])
    if "x-kubernetes-patch-strategy" in schema:
        words.append("patch=" + schema["x-kubernetes-patch-strategy"])
    return "  " + " ".join(words)


def main():
    with open(sys.argv[1], encoding="utf-8") as source:
        definitions = json.load(source)["$defs"]
    done, wanted, blocks = set(), list(KINDS), {}
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        schema = definitions[full(name)]
        head = ["type", name]
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1:
            head.append("kind=%(group)s/%(version)s/%(kind)s" % kinds[0])
        elif kinds:
            head.append("kind=/v1/" + name.split(".")[-1])
        if schema.get("x-kubernetes-map-type") == "atomic":
            head.append("atomic")
        required = set(schema.get("required", []))
        lines = [" ".join(head)]
        for field, inner in sorted(schema.get("properties", {}).items()):
            lines.append(field_line(name, field, inner, required, wanted))
        blocks[name] = lines
    print("# Written by generate.py from upstream's definitions; see there for the form. Do not edit.")
    for name in sorted(blocks):
        print("\n".join(blocks[name]))


main()
