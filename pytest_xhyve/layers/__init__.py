"""From a guest to an image: run the steps of a recipe, or save what a guest has become, as a layer over its image."""
