"""The graph between KerasTensors: which nodes lie between inputs and outputs, in which order."""

from gpukeras.autograd.symbolic import KerasTensor, Node, map_structure

__all__ = ["Graph", "clone"]


class Graph:
    """The nodes that compute `outputs` from `inputs`, ordered by depth as in Keras.

    The depth of a node is its longest distance to an output. Operations of one depth are in the order in
    which a depth-first search from the outputs meets them; the order of a model's weights follows from it.

    Attributes:
        nodes: In order of computation.
        operations: Layers and ops, each once.

    Raises:
        ValueError: where an output does not depend on `inputs` alone, or two operations share a name.
    """

    def __init__(self, inputs, outputs):
        self.inputs = inputs
        self.outputs = outputs
        finished, first_seen = _search(inputs, outputs)
        depth_of_node, depth_of_operation = self._depths(finished)
        for tensor in inputs:  # inputs that no output needs still belong to the model
            operation, index, _ = tensor._keras_history
            if operation not in depth_of_operation:
                depth_of_operation[operation] = 0
                first_seen[operation] = -1
                depth_of_node[operation._inbound_nodes[index]] = 0
        self.nodes = sorted(depth_of_node, key=lambda node: -depth_of_node[node])
        self.operations = sorted(
            depth_of_operation,
            key=lambda operation: (-depth_of_operation[operation], first_seen[operation]),
        )
        self._check_connected()
        self._check_names()

    def __contains__(self, node):
        return node in set(self.nodes)

    @staticmethod
    def _depths(finished):
        known = set(finished)
        depth_of_node, depth_of_operation = {}, {}
        for node in reversed(finished):
            depth = max(depth_of_node.get(node, 0), depth_of_operation.get(node.operation, 0))
            depth_of_node[node] = depth_of_operation[node.operation] = depth
            for parent in node.parent_nodes:
                if parent in known:
                    depth_of_node[parent] = max(depth + 1, depth_of_node.get(parent, 0))
        return depth_of_node, depth_of_operation

    def _check_connected(self):
        computable = {id(tensor) for tensor in self.inputs}
        for node in self.nodes:
            if node.is_input and not any(id(tensor) in computable for tensor in node.outputs):
                raise ValueError(
                    f"The outputs depend on Input {node.operation.name!r}, which is not among the model's inputs "
                    f"({', '.join(t._keras_history[0].name for t in self.inputs)}). Add it to `inputs`."
                )
            for tensor in node.inputs:
                if id(tensor) not in computable:
                    raise ValueError(
                        f"Graph disconnected: {tensor}, read by {node.operation.name!r}, cannot be computed from "
                        f"the model's inputs. Add the Input it comes from to `inputs`."
                    )
            computable.update(id(tensor) for tensor in node.outputs)

    def _check_names(self):
        seen = set()
        for operation in self.operations:
            if operation.name in seen:
                raise ValueError(
                    f"The name {operation.name!r} stands for more than one layer of the model. Names must be unique: "
                    f"pass name=... to one of them."
                )
            seen.add(operation.name)


def clone(inputs, outputs, make_input):
    """The same computation from new Input tensors, for a model that starts at intermediate tensors.

    Args:
        inputs, outputs: Flat lists of KerasTensors.
        make_input: Function from a KerasTensor to an Input tensor like it.

    Returns:
        New inputs and outputs; the operations are the same and get new nodes.
    """
    graph_nodes, _ = _search(inputs, outputs)
    new_of = {id(tensor): tensor if _is_input(tensor) else make_input(tensor) for tensor in inputs}

    def renewed(leaf):
        return new_of.get(id(leaf), leaf) if isinstance(leaf, KerasTensor) else leaf

    for node in graph_nodes:
        if node.is_input or all(id(tensor) in new_of for tensor in node.outputs):
            continue
        fresh = [KerasTensor(tensor.shape, tensor.dtype) for tensor in node.outputs]
        Node(
            node.operation,
            map_structure(renewed, node.args),
            map_structure(renewed, node.kwargs),
            fresh,
        )
        for tensor, made in zip(node.outputs, fresh, strict=True):
            new_of.setdefault(id(tensor), made)
    return [renewed(tensor) for tensor in inputs], [renewed(tensor) for tensor in outputs]


def _search(inputs, outputs):
    """Nodes so that each comes after the nodes it reads, and when each operation was first met."""
    given = {id(tensor) for tensor in inputs}
    finished, done, in_progress, first_seen = [], set(), set(), {}
    # A stack instead of recursion: models may be deeper than Python's recursion limit.
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, is_left = stack.pop()
        if tensor._keras_history is None:
            continue
        operation, index, _ = tensor._keras_history
        node = operation._inbound_nodes[index]
        if is_left:
            if node not in done:
                done.add(node)
                in_progress.discard(node)
                finished.append(node)
            continue
        if node in done or (not node.is_input and id(tensor) in given):
            continue
        if node in in_progress:
            continue
        first_seen.setdefault(operation, len(first_seen))
        in_progress.add(node)
        stack.append((tensor, True))
        stack.extend((parent, False) for parent in reversed(node.inputs))
    return finished, first_seen


def _is_input(tensor):
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index].is_input
