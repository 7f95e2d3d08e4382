"""ModelPusher: hands a blessed model to the server, whole or not at all."""
