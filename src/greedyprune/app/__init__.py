"""The app of `greedyprune app`: one question, several methods side by side, and the kept tokens over the picture.

`session` answers, `show` writes what is answered as HTML, and `page` is the page in gradio. Needs the extra `app`.
"""
