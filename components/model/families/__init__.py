"""The supported vision-language models, one file per family; `FAMILIES` is the only list of them.

`Backbone` (components/model/backbone.py) says what a family has to say, and docs/models.md how one
is added.
"""

from components.model.backbone import Backbone
from components.model.families.gemma3 import Gemma3Backbone
from components.model.families.idefics3 import Idefics3Backbone
from components.model.families.instructblip import InstructBlipBackbone
from components.model.families.internvl import InternVLBackbone
from components.model.families.llava import LlavaBackbone
from components.model.families.llava_next import LlavaNextBackbone
from components.model.families.llava_onevision import LlavaOnevisionBackbone
from components.model.families.qwen2_5_vl import Qwen25VLBackbone

FAMILIES: tuple[type[Backbone], ...] = (
    LlavaBackbone,
    LlavaNextBackbone,
    LlavaOnevisionBackbone,
    Qwen25VLBackbone,
    InternVLBackbone,
    Idefics3Backbone,
    Gemma3Backbone,
    InstructBlipBackbone,
)
