"""Questions and their answers: about a word, about the kind of thing, about a picture. None of it names a thing.

The slots are those of `phrases`; `{category}` is one of `lexicon.CATEGORIES`, `{usage}` a sentence with a blank;
`{text}` and `{noun}` those of a `captions.Piece`, `{a}` the article of the noun.
"""

WORD_OPENERS = (
    *(
        "what's the word for {noun}?",
        "what do you call {noun}?",
        "is there a word for {noun}?",
        "one word for {noun}?",
    ),
    *(
        "crossword clue: {noun}",
        "I need a word that means {noun}",
        "how do you say {noun} in one word?",
        "{noun}, in one word?",
    ),
    *(
        "dictionary says: {noun}. what's the entry?",
        "looking for a term: {noun}",
        "there's a name for {noun}, isn't there?",
    ),
    *("what would you call {noun}?", "I'm writing a text and need a word for {noun}", "my clue reads: {noun}"),
    *(
        "{friend} asked me {time} what you call {noun}",
        "help, the word for {noun} won't come to me",
        "define this backwards: {noun}",
    ),
    *(
        "name for {noun}?",
        "vocabulary test! {noun}",
        "what does one call {noun}?",
        "the quiz {place} asked for {noun}",
    ),
)
WORD_CLASSES = {
    "noun": ("a noun", "a thing", "the name of something"),
    "verb": ("a verb", "something you do", "an action"),
    "adjective": ("an adjective", "a describing word", "a quality"),
    "adverb": ("an adverb", "it says how something is done", "a word for how"),
}
WORD_QUESTIONS = (
    *(
        "is that a noun or a verb?",
        "what kind of word are you after?",
        "can you use it in a sentence?",
        "how is it used?",
    ),
    *(
        "hm, give me some context",
        "noun, verb, adjective?",
        "could you give an example?",
        "where did you come across it?",
    ),
)
QUESTION_OPENERS = (
    *(
        "I have something in mind that {friend} showed me {time}, ask me anything",
        "I'm hiding a picture I took {time}, ask away",
    ),
    *(
        "let's play twenty questions, it's something I saw {place} {time}",
        "ask me about the thing I saw {place} {time}",
    ),
    *(
        "{friend} drew something {time} and only I know what, go ahead and ask",
        "okay, I picked something {place} {time}. ask!",
    ),
    *(
        "I've got a card here that {friend} gave me {time}, yes or no questions only",
        "guess the thing {place} {time}, you may ask",
    ),
    *("you ask, I answer, it's a thing {friend} mentioned {time}", "same game as {time}, {friend} chose it. ask me"),
)
ASK_FIRST = (
    *(
        "okay you have something {friend} picked {time}.",
        "so, the picture {friend} took {time}.",
        "about the thing {place}:",
    ),
    *(
        "my turn to ask about what you saw {place} {time}.",
        "let me guess what {friend} got {time}.",
        "I'll try to guess it.",
    ),
    *(
        "that photo you took {time},",
        "about the card {friend} gave you {time}:",
        "I can't see the picture {friend} sent {time}.",
    ),
    *(
        "what you found {place} {time},",
        "the thing {friend} was on about {time},",
        "first question on the one {place}:",
    ),
)
CATEGORY_QUESTIONS = (
    *(
        "is {it} {category}?",
        "would you say {it}'s {category}?",
        "{category}?",
        "is it {category} then?",
        "so {it}'s {category}?",
    ),
    *("are we talking about {category}?", "could it be {category}?", "are you thinking of {category}?"),
)
OPEN_QUESTIONS = (
    *(
        "what's {it} like?",
        "how would you describe {it}?",
        "what do people know {it} for?",
        "tell me something about {it}",
    ),
    *(
        "what else can you say?",
        "any detail?",
        "can you give me a hint?",
        "what is special about {it}?",
        "then what is {it}?",
    ),
)
YES = (
    "yes",
    "yep",
    "yes it is",
    "yeah",
    "correct",
    "right",
    "exactly",
    "sure",
    "it is",
    "indeed",
    "uh-huh, yes",
    "true",
)
NO = (
    "no",
    "nope",
    "no, it isn't",
    "nah",
    "not at all",
    "not really",
    "no no",
    "wrong",
    "it's not",
    "I don't think so",
)
PICTURE_QUESTIONS = (
    *(
        "what's in the picture {friend} sent {time}?",
        "can you describe the drawing you made {time}?",
        "what do you see in the one {place}?",
    ),
    *(
        "I can't open the picture {friend} sent {time}, what's on it?",
        "what did {friend} draw {time}?",
        "what's on the photo {place}?",
    ),
    *(
        "what's the picture you hung up {time}?",
        "which picture did {friend} choose {time}?",
        "what does the sticker {place} show?",
    ),
    *(
        "tell me what {friend} painted {time}",
        "so what's in that image {friend} made {time}?",
        "what's shown on the card {friend} got {time}?",
    ),
)
DETAIL_QUESTIONS = (
    *(
        "what does it look like?",
        "any details?",
        "what else is there?",
        "can you be more precise?",
        "which one exactly?",
    ),
    *("anything special about it?", "how does it look?", "what exactly?", "what more do you see?"),
)
USAGES = (
    *(
        'as in "{usage}"',
        'like when they say "{usage}"',
        'you could say "{usage}"',
        'for example, "{usage}"',
        '"{usage}"',
    ),
    *('someone wrote "{usage}"', 'I read "{usage}"', 'in a sentence: "{usage}"', 'think of "{usage}"'),
)

# By the kind of a piece of a caption: questions that it answers, and those that say it and are answered by yes or no.
PIECE_QUESTIONS = {
    "what": ("what is it?", "what do you see?", "what does it show?", "what's in it?", "what are we looking at?"),
    "event": ("what happens?", "what's going on?", "what is it about?", "what's the story?", "what is said?"),
    "colour": (
        "what colour is the {noun}?",
        "what color is it?",
        "which colour?",
        "what colour does the {noun} have?",
    ),
    "size": ("how big is the {noun}?", "what size is it?", "is it big or small?", "how large?"),
    "number": ("how many {noun}?", "how many are there?", "is there just one?", "just one?"),
    "modifier": ("what kind of {noun}?", "what sort of {noun} is it?", "what is the {noun} like?", "which {noun}?"),
    "where": ("where is it?", "where?", "where exactly?", "where does it happen?", "in what place?"),
    "having": ("what does it have?", "is there anything with it?", "does it have anything on it?", "any details?"),
    "purpose": ("what is it for?", "what do people do with it?", "what's the use of it?", "what for?"),
    "doing": ("what is it doing?", "is it doing anything?", "what is going on there?", "doing what?"),
    "clause": ("tell me more about it", "what about it?", "anything more to say?", "can you say more?"),
    "more": ("what else?", "anything else?", "what more do you see?", "is that all?", "and what else is there?"),
    "tag": ("what does it make you think of?", "what would you file it under?", "any keyword?", "what is the topic?"),
}
POLAR_QUESTIONS = {
    "what": (
        "is it {a} {text}?",
        "is there {a} {text}?",
        "do you see {a} {text}?",
        "{a} {text}?",
        "any {text} in it?",
    ),
    "colour": ("is the {noun} {text}?", "is it {text}?", "{text}?", "does it look {text}?"),
    "size": ("is the {noun} {text}?", "is it {text}?", "would you call it {text}?"),
    "number": ("{text} of them?", "are there {text}?", "{text}, right?"),
    "modifier": ("{a} {text} one?", "would you say {text}?", "so {text}?"),
    "where": ("is there {a} {noun}?", "can you see {a} {noun}?", "is it {text}?", "{text}?", "any {noun}?"),
    "having": ("does it have {a} {noun}?", "is there {a} {noun}?", "any {noun}?", "do you see {a} {noun}?"),
    "purpose": ("is it {text}?", "{text}?", "so it's {text}?"),
    "doing": ("is it {text}?", "{text}?", "so it's {text}?"),
    "tag": ("does it have to do with {text}?", "is it about {text}?", "{text}?", "would you file it under {text}?"),
}
PIECE_ANSWERS = (
    *("{text}", "{text}", "{text}", "{text}", "I'd say {text}", "{text}, I think", "looks like {text}"),
    *("{text}, as far as I can see", "{text} it seems", "I believe {text}", "just {text}", "mostly {text}"),
)
# What people ask of any picture, and is neither right nor wrong of one that says nothing of it.
GENERAL_QUESTIONS = (
    *("is it in colour?", "is it a close-up?", "is the image clear?", "is it a good picture?", "is it a photo?"),
    *("are there any people?", "is anyone in it?", "how many people are there?", "any animals?", "do you see a dog?"),
    *("is it indoors or outdoors?", "is it outside?", "is it inside?", "is it sunny?", "is it day or night?"),
    *("how's the weather?", "can you see the sky?", "any clouds?", "are there any trees?", "is there any grass?"),
    *("are there any buildings?", "do you see any cars?", "is there any text?", "any words on it?", "any numbers?"),
    *("what's in the background?", "anything in the background?", "are there any other objects?", "anything else?"),
    *("is it old?", "does it look new?", "is it clean?", "can you see a window?", "is there a table?", "any plants?"),
    *("is there a woman?", "is there a man?", "any children?", "are they smiling?", "is there any water?"),
    *("is there any food?", "can you tell where it was taken?", "can you see the floor?", "any shadows?"),
)
UNSURE = (
    *("I can't tell", "not sure", "can't say", "hard to tell", "don't know", "no idea", "not that I can see"),
    *("not that I see", "I can't see that", "I don't see any", "maybe", "it doesn't say", "can't tell from here"),
)
