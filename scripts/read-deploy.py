"""Parses YAML files, refuses a key that is given twice, and writes every pointsman.toml of a ConfigMap
into a directory. Usage: read-deploy.py DIRECTORY FILE..."""

import pathlib
import sys

import yaml


class Strict(yaml.SafeLoader):
    """Refuses a key that is given twice, which YAML forbids and the parser lets pass."""

    def construct_mapping(self, node, deep=False):
        self.no_key_twice(node)
        return super().construct_mapping(node, deep)

    @staticmethod
    def no_key_twice(node):
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                sys.exit(f"{key.start_mark}: {key.value!r} is given twice")
            seen.add(key.value)

    def flatten_mapping(self, node):
        # Before "<<" brings in keys that may be given again on purpose.
        self.no_key_twice(node)
        merges = any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value)
        super().flatten_mapping(node)
        if merges:
            own = {}
            for key, value in node.value:
                own[key.value] = (key, value)
            node.value = list(own.values())


def main():
    directory = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:]:
        with open(name, encoding="utf-8") as file:
            documents = list(yaml.load_all(file, Strict))
        for number, document in enumerate(documents):
            if not isinstance(document, dict):
                sys.exit(f"{name}: document {number} is empty or no mapping")
            if document.get("kind") != "ConfigMap":
                continue
            for key, config in document["data"].items():
                stem = pathlib.Path(name).stem
                (directory / f"{stem}-{key}").write_text(config, encoding="utf-8")


main()
