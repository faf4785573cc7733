"""Make the mutants of the copy in the current folder, try them, and write what became of each.

This is mutmut and a little more. mutmut changes what stands in functions: comparisons, numbers, arguments, assignments,
words, branches. It lets alone what is decorated, so properties are written otherwise here; and it takes no statement
away and turns no condition of one name round, which two rules of our own do. Three of its rules are narrower here:

* a word is changed once, not again in other letters; texts for people are no mutants worth trying, so that texts with a
  blank in them, SQL among them, stay as they are;
* an argument becomes None, but is not left out too: where that makes a difference, it is mostly no call any more;
* true becomes false, but not None too.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import libcst as cst
from mutmut import __main__ as mutmut
from mutmut.mutation import mutators


class Properties(cst.CSTTransformer):
    """Write ``@property`` as an assignment behind the function, which mutmut does change then."""

    def leave_FunctionDef(  # noqa: N802 -- libcst calls it so
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef | cst.FlattenSentinel[cst.BaseStatement]:
        """Undress a property."""
        dress = [d.decorator.value for d in original_node.decorators if isinstance(d.decorator, cst.Name)]
        if dress != ["property"]:
            return updated_node
        name = original_node.name.value
        after = cst.parse_statement(f"{name} = property({name})")
        return cst.FlattenSentinel([updated_node.with_changes(decorators=[]), after])


def word(node: cst.BaseString) -> Iterable[cst.BaseString]:
    """Change a word that means something to the program."""
    if isinstance(node, cst.SimpleString) and " " not in node.value:
        yield from list(mutators.operator_string(node))[:1]


def argument(node: cst.Call) -> Iterable[cst.Call]:
    """Put None in place of an argument."""
    for changed in mutators.operator_arg_removal(node):
        if len(changed.args) == len(node.args):
            pairs = zip(node.args, changed.args, strict=True)
            if not any(old is not new and _is_truth(old.value) for old, new in pairs):
                yield changed


def assignment(node: cst.Assign | cst.AnnAssign) -> Iterable[cst.CSTNode]:
    """Assign None instead of what was assigned, or something instead of None."""
    if node.value is not None and not _is_truth(node.value):
        yield from mutators.operator_assignment(node)


def _is_truth(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Name) and node.value in ("True", "False")


def gone(node: cst.Expr) -> Iterable[cst.BaseSmallStatement]:
    """Take a statement away, if it is no docstring."""
    if not isinstance(node.value, cst.BaseString):
        yield cst.Pass()


def turned(node: cst.If | cst.CompIf) -> Iterable[cst.CSTNode]:
    """Turn a condition round that holds no operator which mutmut changes."""
    if isinstance(node.test, cst.Name | cst.Attribute | cst.Call | cst.NamedExpr):
        inner = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inner))


OURS = {
    mutators.operator_string: word,
    mutators.operator_arg_removal: argument,
    mutators.operator_assignment: assignment,
}


def rules() -> mutators.OPERATORS_TYPE:
    """Mutmut's rules, ours in place of some, and our own."""
    theirs = [(kind, OURS.get(rule, rule)) for kind, rule in mutators.mutation_operators]
    return [*theirs, (cst.Expr, gone), (cst.If, turned), (cst.CompIf, turned)]


def main() -> None:
    """Try every mutant and write the results into the file that is named."""
    mutators.mutation_operators[:] = rules()  # type: ignore[index]
    for path in mutmut.walk_mutatable_files():
        path.write_text(cst.parse_module(path.read_text()).visit(Properties()).code)
    mutmut._run((), max_children=1)
    found = []
    for path in mutmut.walk_mutatable_files():
        made = mutmut.SourceFileMutationData(path=path)
        made.load()
        for name, code in made.exit_code_by_key.items():
            diff = mutmut.get_diff_for_mutant(name, path=path)
            found.append(
                {"module": str(path), "name": name, "status": mutmut.status_by_exit_code[code], "diff": diff}
            )
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
