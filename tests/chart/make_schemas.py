"""Makes JSON schemas for kubeconform: Kubernetes' own, out of the package kubernetes-validate, and strict
ones of custom resources, out of their definitions.
usage: make_schemas.py DIRECTORY WHEEL DEFINITION...
"""
import json
import pathlib
import sys
import zipfile

import yaml


def closed(schema):
    """The same schema, which refuses unknown fields as the API server's strict validation does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema \
            and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return result


def local(text):
    """A schema of the package, whose references are to files beside it: there is no server of schemas."""
    schema = json.loads(text.replace(b'"/api/_definitions.json#', b'"_definitions.json#'))
    schema.pop("$id", None)
    return json.dumps(schema)


def main():
    target = pathlib.Path(sys.argv[1])
    with zipfile.ZipFile(sys.argv[2]) as wheel:
        for name in wheel.namelist():
            path = pathlib.PurePath(name)
            if path.parent.name.endswith("-local-strict"):
                directory = target / path.parent.name.removesuffix("-local-strict")
                directory.mkdir(exist_ok=True)
                (directory / path.name).write_text(local(wheel.read(name)), encoding="utf-8")
    for source in sys.argv[3:]:
        with open(source, encoding="utf-8") as file:
            for definition in filter(None, yaml.safe_load_all(file)):
                names, spec = definition["spec"]["names"], definition["spec"]
                for version in spec["versions"]:
                    schema = closed(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {"type": "object"}  # named, but not described
                    path = target / f"{names['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
                    path.write_text(json.dumps(schema), encoding="utf-8")


main()
