#!/usr/bin/env python3
"""Writes numbers.txt: the protobuf field numbers of the types in schema's facts.txt.

Usage: generate_numbers.py FACTS.txt API_DIR APIMACHINERY_DIR > numbers.txt

API_DIR and APIMACHINERY_DIR are checkouts of upstream's `api` and `apimachinery` repositories; their `generated.proto`
files give the numbers and `types.go` tells which fields are pointers (their zero differs from absence). A block per type:
`type NAME`, then `NUMBER FIELD [pointer]` per line. `2.1` is field 1 of message 2 whose fields JSON shows in its owner.
"""
import re
import sys

FACTS, API, MACHINERY = sys.argv[1:4]


def folder(package):
    return MACHINERY + "/pkg/apis/meta/v1" if package == "meta.v1" else API + "/" + package.replace(".", "/")


def messages(package):
    text = open(folder(package) + "/generated.proto", encoding="utf-8").read()
    found = {}
    for name, body in re.findall(r"^message (\w+) \{\n(.*?)^\}", text, re.S | re.M):
        fields = re.findall(r"^  (?:optional |repeated )?(map<[^>]+>|[\w.]+) (\w+) = (\d+);", body, re.M)
        found[name] = [(int(number), field, kind) for kind, field, number in fields]
    return found


def pointers(package):
    text = open(folder(package) + "/types.go", encoding="utf-8").read()
    found = set()
    for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.S | re.M):
        for star, field in re.findall(r'^\s*\w+\s+(\*?)[\w.\[\]*]+\s+`json:"(\w+)[^`]*`', body, re.M):
            if star:
                found.add((name, field))
    return found


def lines(package, name, known, protos, stars, prefix=""):
    out = []
    for number, field, kind in sorted(protos[package].get(name, [])):
        field = next((k for k in known if k.lower() == field.lower()), field)
        if field in known:
            mark = " pointer" if (name, field) in stars[package] else ""
            out.append("  %s%d %s%s" % (prefix, number, field, mark))
        elif kind in protos[package] and prefix.count(".") < 3:
            out += lines(package, kind, known, protos, stars, "%s%d." % (prefix, number))
    return out


def main():
    types, current = {}, None
    for line in open(FACTS, encoding="utf-8"):
        if line.startswith("type "):
            current = types.setdefault(line.split()[1], [])
        elif line.startswith("  "):
            current.append(line.split()[0])
    packages = sorted({name.rsplit(".", 1)[0] for name in types})
    protos = {p: messages(p) for p in packages}
    stars = {p: pointers(p) for p in packages}
    print("# Written by generate_numbers.py from upstream's protocol files; see there for the form. Do not edit.")
    for name in sorted(types):
        package, short = name.rsplit(".", 1)
        block = lines(package, short, set(types[name]), protos, stars)
        if block:
            print("type " + name)
            print("\n".join(block))
        missing = set(types[name]) - {l.split()[1] for l in block} - {"kind", "apiVersion"}
        if missing:
            print("%s lacks %s" % (name, ", ".join(sorted(missing))), file=sys.stderr)


main()
