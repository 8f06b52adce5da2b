"""torch.fx's code generator, taught to write as people do: what is used once is inlined, what has a name keeps it."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch.fx.graph import CodeGen, PythonCode

from canvas_rt.codegen import vocabulary
from canvas_rt.codegen.syntax import fresh, names_of, quote, statements, unparse
from canvas_rt.ops.functions import RUN_TIME

LONGEST_EXPRESSION = 90
"""Syntax nodes beyond which an expression gets a line of its own, even if it is used once."""


CACHED = "if past_key_values is not None:\n    k, v = past_key_values.update(k, v, self.layer_idx)\n"

KEPT = """\
if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
    kept = past_key_values.cross_attention_cache.layers[self.layer_idx]
    k = kept.keys
    v = kept.values
else:
    k, v = call
    if past_key_values is not None:
        k, v = past_key_values.cross_attention_cache.update(k, v, self.layer_idx)
        past_key_values.is_updated[self.layer_idx] = True
"""
"""Keys and values of what an encoder gives are the same for all tokens: they are made for the first."""

MASKS = frozenset({"attention_mask", "encoder_attention_mask", "past_key_values"})
"""What modules with attention are told, each what it asks for."""


@dataclass
class Layout:
    """What a function is beside its graph."""

    signature: ast.arguments
    returns: str
    """The annotation of what it gives."""

    before: Sequence[ast.stmt] = ()
    """Statements ahead of the graph's own."""

    bound: Mapping[str, str] = field(default_factory=dict)
    """For inputs that `before` computes: the variable that holds each."""

    result: Callable[[ast.expr], Sequence[ast.stmt]] = lambda value: statements("return value", value=value)
    """How the function ends."""

    context: Sequence[ast.keyword] = ()
    """Keyword arguments for whatever contains attention."""

    comments: Mapping[str, str] = field(default_factory=dict)
    """By node name: a shape to write behind the line that computes it."""

    decorators: Sequence[str] = ()

    name: str = "forward"


class SourceCodeGen(CodeGen):
    """Prints one `forward`."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def _gen_python_code(self, nodes: Any, root_module: str, namespace: Any, **options: Any) -> PythonCode:
        source = _Printer(self.layout, list(nodes)).print()
        return PythonCode(source, {}, None)


def print_graph(graph: fx.Graph, layout: Layout) -> str:
    """A graph's `forward` as source text, unindented."""
    graph.set_codegen(SourceCodeGen(layout))
    return graph.python_code("self").src


class _Printer:
    """Writes a function statement by statement."""

    def __init__(self, layout: Layout, nodes: list[fx.Node]) -> None:
        self.layout = layout
        self.nodes = nodes
        self.body: list[tuple[ast.stmt | None, str]] = [(statement, "") for statement in layout.before]
        self.order = {node: index for index, node in enumerate(nodes)}
        self.places: dict[fx.Node, int] = {}
        """For each expression that is yet to be written, where its own line would stand."""
        self.spans: dict[fx.Node, tuple[int, int]] = {}
        """For each of those, the first and the last of the nodes that it computes."""
        self.consumed: list[tuple[int, int]] = []
        self.computed: dict[int, int] = {}
        """For lines of the body, the last of the nodes that they compute."""
        self.values: dict[fx.Node, ast.expr] = {}
        self.variables: dict[fx.Node, str] = {}
        self.held: list[fx.Node] = []
        """Variables that would hold memory while later modules run."""
        self.waiting: dict[fx.Node, int] = dict.fromkeys(nodes, 0)
        for node in nodes:
            fx.node.map_arg(node.args, self.expect)
        names = [a.arg for a in (*layout.signature.args, *layout.signature.kwonlyargs)]
        self.taken = {
            *names,
            "kwargs",
            *RUN_TIME,
            "attention",
            "attn_weights",
            "attend",
            "sees",
            "dropout",
            *self._assigned(layout.before),
        }
        self.taken |= {
            f"{node.target.__name__}{node.meta.get('suffix', '')}" for node in nodes if callable(node.target)
        }

    @staticmethod
    def _assigned(body: Sequence[ast.stmt]) -> set[str]:
        return {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}

    def print(self) -> str:
        for node in self.nodes:
            if node.op == "placeholder":
                name = str(node.target)
                self.bind(node, self.layout.bound.get(name, name))
            elif node.op == "output":
                (result,) = node.args
                self.settle(node)
                several = isinstance(result, tuple | list)
                given: Any = result if several else (result,)
                values = [self.value(one) for one in given]
                whole = ast.Tuple(values, ast.Load()) if several else values[0]
                for statement in self.layout.result(whole):
                    self.body.append((statement, ""))
            else:
                self.write(node)
        return self.text()

    def text(self) -> str:
        function = ast.FunctionDef(
            name=self.layout.name,
            args=self.layout.signature,
            body=[ast.Pass()],
            decorator_list=[quote(name) for name in self.layout.decorators],
            returns=quote(self.layout.returns),
        )
        function.type_params = []  # type: ignore[attr-defined]  # Python 3.12 and later
        lines, said = unparse(function).splitlines()[:-1], ""
        for statement, comment in ending_returned([(one, words) for one, words in self.body if one is not None]):
            if comment and comment != said:  # on a line of its own: behind a long line the formatter would break that
                lines.append(f"    # {comment}")
            said = comment or said
            whole = unparse([statement])
            if isinstance(statement, ast.Return) and isinstance(statement.value, ast.Tuple):
                parts = [one.elts if isinstance(one, ast.Tuple) else [one] for one in statement.value.elts]
                whole = "return " + ", ".join(unparse(value) for part in parts for value in part)
            text = whole.splitlines()
            lines += [f"    {line}" for line in text[:-1]]
            lines.append(f"    {text[-1]}")
        return "\n".join(lines) + "\n"

    def expect(self, node: fx.Node) -> fx.Node:
        self.waiting[node] += 1
        return node

    # values

    def bind(self, node: fx.Node, name: str) -> None:
        """Say that a variable holds a node's value."""
        self.variables[node] = name
        self.values[node] = ast.Name(name, ast.Load())
        self.taken.add(name)

    def value(self, node: fx.Node) -> ast.expr:
        """The expression for a node, at one of its uses."""
        self.waiting[node] -= 1
        if not self.waiting[node] and node not in self.variables:
            self.consumed.append(self.spans.get(node, (self.order[node],) * 2))
            return self.values.pop(node)  # inlined here, for the only time
        return self.values[node]

    def inputs(self, node: fx.Node) -> list[ast.expr]:
        return [self.value(arg) for arg in node.args if isinstance(arg, fx.Node)]

    def settle(self, node: fx.Node) -> None:
        """Give those of a node's inputs a line that would not be computed in their turn if they were written in place.

        The order of a model's parts is a part of the model: sums of gradients follow it.
        """
        latest = -1
        for arg in node.all_input_nodes:
            if arg in self.variables or arg not in self.places:
                continue
            first, last = self.spans[arg]
            late = any(line > self.places[arg] and node > first for line, node in self.computed.items())
            if late or first < latest or self.overtaken(node, last):
                self.give_line(arg)
            latest = max(latest, last)

    def overtaken(self, node: fx.Node, last: int) -> bool:
        """Whether something that is yet to be written, and that a node does not take, is computed between it and its input."""
        if node.target in vocabulary.SHAPING:
            return False
        waiting = (other for other in self.places if other not in self.variables and other in self.values)
        return any(self.spans[other][0] > last for other in waiting if other not in node.all_input_nodes)

    def give_line(self, node: fx.Node) -> None:
        """Write an expression where it was computed."""
        expression = self.values[node]
        name = fresh(node.meta.get("variable", node.name), self.taken)
        assignment = ast.Assign([ast.Name(name, ast.Store())], expression)
        self.body[self.places[node]] = assignment, self.layout.comments.get(node.name, "")
        self.computed[self.places[node]] = self.spans[node][1]
        self.bind(node, name)

    def write(self, node: fx.Node) -> None:
        self.settle(node)
        self.consumed = []
        before = len(self.body)
        self.write_node(node)
        if any(statement is not None for statement, _ in self.body[before:]):
            own = [] if node.target in vocabulary.SHAPING else [self.order[node]]
            self.computed[len(self.body) - 1] = max([-1, *own, *(last for _, last in self.consumed)])
        self.let_go(self.order[node])

    def let_go(self, index: int) -> None:
        """Free what nothing reads any more, where modules are still to run."""
        for node in [one for one in self.held if not self.waiting[one] and not self.pending(self.variables[one])]:
            self.held.remove(node)
            if any(later.op == "call_module" for later in self.nodes[index + 1 :]):
                self.body += [(s, "") for s in statements("del name", name=ast.Name(self.variables[node], ast.Del()))]

    def write_node(self, node: fx.Node) -> None:
        if node.target is vocabulary.attention:
            self.write_attention(node)
        elif node.target is vocabulary.stack:
            self.write_stack(node)
        elif node.target is vocabulary.keys_and_values:
            self.write_keys_and_values(node)
        elif node.target in (vocabulary.port, vocabulary.alibi, vocabulary.relative_bias):
            return  # bound together with its siblings, or written where attention takes it
        elif node.meta.get("ports"):
            self.write_several(node)
        else:
            self.write_one(node)

    def expression(self, node: fx.Node) -> ast.expr:
        if node.meta.get("tokens"):
            return self.on_tokens(node)
        inputs = self.inputs(node)
        if node.meta.get("arguments"):
            return self.by_name(node, inputs)
        if node.op == "call_module":
            context = self.context(node)
            if context and context[0].arg == "attention_mask" and not node.meta.get("state"):
                inputs.append(context.pop(0).value)  # what it takes next
            return ast.Call(self.called(node), inputs, context)
        return vocabulary.EXPRESSIONS[node.target](inputs, node.meta)

    def called(self, node: fx.Node) -> ast.expr:
        """The module that a node calls."""
        held: ast.expr = node.meta.get("held") or quote("self._name_", _name_=str(node.target))
        return held

    def by_name(self, node: fx.Node, inputs: list[ast.expr]) -> ast.expr:
        """A module kept whole, called as the original is."""
        given: dict[str, ast.expr] = {}
        for (name, place), value in zip(node.meta["arguments"], inputs, strict=True):
            if place is None:
                given[name] = value
            else:
                parts = given.setdefault(name, ast.Tuple([], ast.Load()))
                assert isinstance(parts, ast.Tuple)
                parts.elts.append(value)
        if node.meta["mask"]:
            given[node.meta["mask"]] = node.meta["sees"]
        if node.meta["cache"]:
            given[node.meta["cache"]] = ast.Name("past_key_values", ast.Load())
        keywords = [ast.keyword(name, value) for name, value in given.items()]
        call = ast.Call(self.called(node), [], keywords)
        place = node.meta["place"]
        return call if place < 0 else quote("call[place]", call=call, place=ast.Constant(place))

    def context(self, node: fx.Node) -> list[ast.keyword]:
        """Keyword arguments of a module: those of attention, where it attends; where tokens stand, if it asks for that."""
        if node.meta.get("state"):
            mask = ast.keyword("attention_mask", ast.Name("recurrent_mask", ast.Load()))
            return [ast.keyword(node.meta["cache"], ast.Name("past_key_values", ast.Load())), mask]
        if wanted := node.meta.get("context"):
            others = MASKS - set(wanted)
            return [keyword for keyword in self.layout.context if keyword.arg not in others]
        if node.meta.get("positions"):
            return [ast.keyword("position_ids", ast.Name("position_ids", ast.Load()))]
        return []

    def on_tokens(self, node: fx.Node) -> ast.expr:
        """A module that takes tokens in a row, whatever their sequence: its first input tells the shape to go back to."""
        first, *others = (arg for arg in node.args if isinstance(arg, fx.Node))
        source = ast.Name(self.named(first, "hidden_states"), ast.Load())
        rows = [self.value(arg) for arg in others]
        if not node.meta.get("in_a_row"):
            rows = [quote("x.flatten(0, -2)", x=value) for value in (source, *rows)]
        call = ast.Call(self.called(node), rows, [])
        name = fresh("tokens", self.taken)
        self.body += [(s, "") for s in statements("name = call", name=name, call=call)]
        return quote("name.view_as(x)", name=name, x=source)

    def write_one(self, node: fx.Node) -> None:
        reusable = self.reusable(node)
        expression = self.expression(node)
        if node.op == "call_module" and node.meta.get("tuple"):
            self.write_attending(node, expression)
            return
        if self.waiting[node] == 1 and not node.meta.get("named") and size_of(expression) < LONGEST_EXPRESSION:
            self.values[node] = expression
            own = self.order[node]
            inside = self.consumed or [(own, own)]
            last = max(last for _, last in inside) if node.target in vocabulary.SHAPING else own
            self.spans[node] = min([own, *(first for first, _ in inside)]), last
            if node.target is not vocabulary.attribute:
                self.places[node] = len(self.body)
                self.body.append((None, ""))
            return
        name = (
            reusable
            if reusable and not self.pending(reusable)
            else fresh(node.meta.get("variable", node.name), self.taken)
        )
        self.assign(node, name, expression)

    def write_attending(self, node: fx.Node, call: ast.expr) -> None:
        """A module that gives attention weights behind its value: they are for whoever records them."""
        name = fresh("attn" if node.name == "self_attn" else node.name, self.taken)
        target = ast.Tuple([ast.Name(name, ast.Store()), ast.Name("_", ast.Store())], ast.Store())
        self.body.append((ast.Assign([target], call), self.layout.comments.get(node.name, "")))
        self.bind(node, name)
        self.held.append(node)

    def reusable(self, node: fx.Node) -> str | None:
        """The variable of the residual stream, where this node is its next value and nothing reads the old one again."""
        args = [arg for arg in node.args if isinstance(arg, fx.Node) and arg not in self.held]
        if not args or not node.meta.get("residual") or args[0] not in self.variables:
            return None
        return self.variables[args[0]] if self.waiting[args[0]] == list(node.args).count(args[0]) else None

    def pending(self, name: str) -> bool:
        """Whether an expression that is yet to be written reads the variable."""
        return any(name in names_of(value) for node, value in self.values.items() if node not in self.variables)

    def assign(self, node: fx.Node, name: str, expression: ast.expr) -> None:
        comment = self.layout.comments.get(node.name, "")
        self.body.append((ast.Assign([ast.Name(name, ast.Store())], expression), comment))
        self.bind(node, name)

    def write_several(self, node: fx.Node) -> None:
        """`q, k = apply_rotary(q, k, cos, sin)`: outputs take the names of inputs that are not read again."""
        expression = self.expression(node)
        ports: Mapping[str, fx.Node | None] = node.meta["ports"]
        targets = []
        for port in node.meta.get("results") or ports:
            source = ports.get(port)
            users = [user for user in node.users if user.args[1] == port and user.users]
            source = source or next((node for node, name in self.variables.items() if name == port), None)
            old = self.variables.get(source) if source is not None and not self.waiting[source] else None
            name = old if old is not None and not self.pending(old) else fresh(self.said(port, users), self.taken)
            for user in users:
                self.bind(user, name)
            targets.append(name if users else "_")
        if node.meta.get("more"):  # the rest is let go of at once
            expression = quote("call[:count]", call=expression, count=ast.Constant(len(targets)))
        target = ast.Tuple([ast.Name(name, ast.Store()) for name in targets], ast.Store())
        self.body.append((ast.Assign([target], expression), self.layout.comments.get(node.name, "")))

    @staticmethod
    def said(port: str, users: list[fx.Node]) -> str:
        """What to call an output: keys and values that attention takes as they come are called so."""
        readers = [reader for user in users for reader in user.users]
        if port.startswith("out_") and len(readers) == 1 and readers[0].target is vocabulary.attention:
            taken = [arg for arg in readers[0].args if isinstance(arg, fx.Node)]
            return str(("q", "k", "v", *readers[0].meta["extra"])[taken.index(users[0])])
        return port

    def named(self, node: fx.Node, preferred: str) -> str:
        """A variable that holds the value, made where the value is only an expression yet."""
        value = self.value(node)
        if isinstance(value, ast.Name):
            return value.id
        name = fresh(preferred, self.taken)
        self.body.append((ast.Assign([ast.Name(name, ast.Store())], value), ""))
        return name

    def write_attention(self, node: fx.Node) -> None:
        q, k, v, *others = (arg for arg in node.args if isinstance(arg, fx.Node))
        query, key, value = self.named(q, "q"), self.named(k, "k"), self.named(v, "v")
        whole = node.meta.get("hands_on") or not node.meta.get("cached")
        if (self.waiting[k] and not whole) or key == query:
            key_out = fresh("k", self.taken)
            self.body += [(s, "") for s in statements("new = old", new=key_out, old=key)]
            key = key_out
        if (self.waiting[v] and not whole) or value in (key, query):
            value_out = fresh("v", self.taken)
            self.body += [(s, "") for s in statements("new = old", new=value_out, old=value)]
            value = value_out
        cached = CACHED if node.meta.get("cached") else ""
        if node.meta.get("halved"):
            cached = cached.replace("values.update", "values.self_attention_cache.update")
        if cached:
            self.body += [(s, "") for s in statements(cached, k=key, v=value)]
        given = {port: self.extra(other, key) for port, other in zip(node.meta["extra"], others, strict=True)}
        name = fresh("attn", self.taken)
        if node.meta.get("template"):
            self.body += [
                (s, "") for s in statements(node.meta["template"], q=query, k=key, v=value, out=name, **given)
            ]
            self.bind(node, name)
            return
        template = (
            "attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)\n"
            "dropout = self.attention_dropout if self.training else 0.0\n"
            "out, attn_weights = attention(self, q, k, v, attention_mask,"
            " dropout=dropout, scaling=self.scaling, **kwargs)\n"
        )
        if node.meta.get("across"):
            template = template.replace("attention_mask,", "encoder_attention_mask,")
        if node.meta.get("window"):
            template = template.replace(
                "scaling=self.scaling,", "scaling=self.scaling, sliding_window=self.sliding_window,"
            )
        for port, keyword in (("bias", "bias"), ("sinks", "s_aux")):
            if port in given:
                template = template.replace("scaling=self.scaling,", f"scaling=self.scaling, {keyword}={port},")
        if node.meta.get("softcap"):
            template = template.replace("scaling=self.scaling,", "scaling=self.scaling, softcap=self.softcap,")
        if node.meta.get("masks") and node.meta.get("chunk"):
            template = template.replace("attention_mask,", "attention_mask['chunk', self.attention_chunk_size],")
        elif node.meta.get("masks"):
            template = template.replace("attention_mask,", "attention_mask[self.sliding_window],")
        if node.meta.get("groups_at_run_time"):
            template = "self.num_key_value_groups = q.shape[1] // k.shape[1]\n" + template
        written = statements(template, q=query, k=key, v=value, out=name, **given)
        self.body += [(s, "") for s in written[:-1]]
        self.body.append((written[-1], self.layout.comments.get(node.name, "")))
        self.bind(node, name)

    def write_keys_and_values(self, node: fx.Node) -> None:
        """Keys and values of what an encoder gives, and where they are kept."""
        call = ast.Call(quote("self.keys_and_values"), self.inputs(node), [])
        names = {port: fresh(port, self.taken) for port in ("k", "v")}
        self.body += [(s, "") for s in statements(KEPT if node.meta["cached"] else "k, v = call", call=call, **names)]
        for user in node.users:
            self.bind(user, names[str(user.args[1])])

    def extra(self, node: fx.Node, key: str) -> ast.expr:
        """What attention takes beside queries, keys and values: the bias for keys is made when the cache has given them."""
        if node.target is vocabulary.alibi:
            self.waiting[node] -= 1
            return quote("alibi(heads, k.shape[2], k)", heads=node.meta["heads"], k=ast.Name(key, ast.Load()))
        if node.target is vocabulary.relative_bias:
            return self.made_for(node, key)
        return self.value(node)

    def made_for(self, node: fx.Node, key: str) -> ast.expr:
        """A bias that is learned by distance, for the keys at hand: a line of its own, since others may read it too."""
        (positions,) = self.inputs(node)
        name = fresh("bias", self.taken)
        self.body += [
            (s, "")
            for s in statements(
                "name = relative_bias(table, positions, k.shape[2], farthest, both_ways=both_ways)",
                name=name,
                table=node.meta["table"],
                positions=positions,
                k=key,
                farthest=node.meta["farthest"],
                both_ways=ast.Constant(node.meta["both_ways"]),
            )
        ]
        self.bind(node, name)
        return self.value(node)

    def write_stack(self, node: fx.Node) -> None:
        carried, *invariants = (arg for arg in node.args if isinstance(arg, fx.Node))
        value = self.value(carried)
        alive = carried in self.variables and self.waiting[carried] > 0
        # Computed once, ahead of the loop.
        others = [ast.Name(self.named(arg, str(arg.meta.get("variable", arg.name))), ast.Load()) for arg in invariants]
        if isinstance(value, ast.Name) and value.id == "hidden_states" and not alive:
            name = value.id
        else:
            name = fresh("hidden_states", self.taken)
            self.body += [(s, "") for s in statements("name = value", name=name, value=value)]
        context = [keyword for keyword in self.layout.context if keyword.arg not in node.meta["taken"]]
        handed = {port: fresh(port, self.taken) for port in node.meta["handed"]}
        given = dict(zip(node.meta["taken"], [ast.Name(name, ast.Load()), *others], strict=True))
        unset = [variable for port, variable in handed.items() if port not in given]
        if unset:
            nothing = ast.Assign([ast.Name(variable, ast.Store()) for variable in unset], ast.Constant(None))
            self.body.append((nothing, ""))
        for port, variable in handed.items():
            if port in given:
                self.body += [(s, "") for s in statements("name = value", name=variable, value=given[port])]
            given[port] = ast.Name(variable, ast.Load())
        if not handed and context and context[0].arg == "attention_mask":
            given["attention_mask"] = context.pop(0).value  # what it takes next
        call = ast.Call(ast.Name("layer", ast.Load()), [*given.values()], context)
        targets: list[ast.expr] = [ast.Name(one, ast.Store()) for one in (name, *handed.values())]
        loop = statements(
            f"for layer in self._name_{'' if node.meta['encodes'] else '[: self.config.num_hidden_layers]'}:\n    name = call",
            _name_=str(node.meta["attribute"]),
            call=call,
        )
        assert isinstance(loop[0], ast.For) and isinstance(loop[0].body[0], ast.Assign)
        loop[0].body[0].targets = [ast.Tuple(targets, ast.Store()) if handed else targets[0]]
        self.body += [(s, "") for s in loop]
        self.bind(node, name)


def size_of(expression: ast.expr) -> int:
    return sum(1 for _ in ast.walk(expression))


def ending_returned(body: Sequence[tuple[ast.stmt, str]]) -> Sequence[tuple[ast.stmt, str]]:
    """The same, but what the last line but one names only for the last to return is returned there."""
    if len(body) < 2:
        return body
    (made, comment), (last, _) = body[-2:]
    if not (isinstance(made, ast.Assign) and isinstance(last, ast.Return) and isinstance(last.value, ast.Name)):
        return body
    target = made.targets[0] if len(made.targets) == 1 else None
    if not (isinstance(target, ast.Name) and target.id == last.value.id):
        return body
    return [*body[:-2], (ast.Return(made.value), comment)]
