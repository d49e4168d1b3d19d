"""Tables of a study of recipes."""


def table(folder, picture):
    return ""
