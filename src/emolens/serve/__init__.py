"""A local server (`emolens[serve]`): a page and OpenAI's endpoint, with readouts and steering."""
