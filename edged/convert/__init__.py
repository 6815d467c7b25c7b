"""TensorFlow models become bundles: SavedModels, and frozen graphs.

What needs TensorFlow runs in another process, in whichever interpreter has it. A graph that takes
encoded images has its decoding, resizing and scaling taken out: `recognise` reads it off the nodes,
so that the container does it, as the manifest says.
"""

from edged.convert._convert import Converted, convert
from edged.convert._graph import Graph, Node, read_graph
from edged.convert._recognise import Recognised, recognise

__all__ = ["Converted", "Graph", "Node", "Recognised", "convert", "read_graph", "recognise"]
