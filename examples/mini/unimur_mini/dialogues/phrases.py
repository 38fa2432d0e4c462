"""What people say around a description: openers, questions, answers, reactions. None of it names a thing.

Slots: `{fact}` a clause ("it's a large cat"), `{noun}` a noun phrase, `{name}` a wrong thing with its article,
`{bare}` the same without; `{time}`, `{place}`, `{friend}` from `SLOTS`; `{it}` the thing's pronoun.
"""

SLOTS: dict[str, tuple[str, ...]] = {
    "time": (
        *(
            "this morning",
            "yesterday",
            "last night",
            "on Sunday",
            "last week",
            "earlier",
            "just now",
            "on my way home",
        ),
        *("the other day", "last summer", "over the weekend", "after lunch", "before dinner", "a while ago", "today"),
        *("on Friday", "two days ago", "around noon", "on holiday", "last month", "two weeks ago"),
    ),
    "place": (
        *("in a book", "on TV", "at my aunt's", "in town", "at school", "on the internet", "at work", "in a museum"),
        *("near the station", "in an old photo", "on a poster", "in the paper", "at the neighbours'", "in a shop"),
        *("in a quiz", "at a friend's place", "in my feed", "in a magazine", "in a documentary", "in a game"),
    ),
    "friend": (
        *("my sister", "my brother", "a friend", "my boss", "my neighbour", "my daughter", "my son", "my teacher"),
        *("my roommate", "grandma", "my uncle", "Anna", "Tom", "Priya", "Luis", "Mei", "a colleague", "my cousin"),
    ),
}

# Before a first turn.
GREETINGS = (
    *("hi", "hello", "hey", "hey there", "good morning", "evening", "hi again", "yo", "hello there", "so", "okay so"),
    *(
        "quick one",
        "question",
        "listen",
        "guess what",
        "help me out",
        "you there?",
        "hm",
        "right",
        "oh hey",
        "morning",
    ),
)
# Before any turn.
FILLERS = (
    *(
        "well",
        "um",
        "hmm",
        "you know",
        "I think",
        "as far as I know",
        "basically",
        "let me see",
        "oh",
        "ah",
        "honestly",
    ),
    *("let me think", "I mean", "okay", "right", "so", "sure", "to be fair", "if I remember right", "actually"),
)
# Behind any turn.
TAILS = (
    *("I guess", "or so I heard", "if that helps", "you know?", "right?", "I'm pretty sure", "more or less", "haha"),
    *("at least I think so", "does that help?", "that's all I know", "as they say", "believe it or not", "get it?"),
    *("just saying", "if you ask me", "apparently"),
)
JOINTS = (", and ", ". ", ", also ", "; ", ". Also, ", " and ", ". Oh, and ", ", plus ", ". And ", " - ")

# The one who describes begins.
TELL_OPENERS = (
    *(
        "I saw something {place} {time}: {fact}",
        "I can't get something out of my head, {fact}",
        "{fact}, what was it?",
    ),
    *("{friend} told me about something {time}, {fact}", "I'm looking for something. {fact}", "imagine this: {fact}"),
    *("there was this thing {place}, {fact}", "{friend} wants a picture of something, {fact}", "picture this, {fact}"),
    *("I forgot the word... {fact}", "the word is on the tip of my tongue, {fact}", "do you know it? {fact}"),
    *("we talked about something {time}, remember? {fact}", "I need a drawing of something: {fact}", "{fact}"),
    *(
        "{friend} brought up something {time}. {fact}",
        "I read about something {place}. {fact}",
        "how do you call it? {fact}",
    ),
    *(
        "I dreamt of something {time}, {fact}",
        "so {friend} asked me {time} what this is: {fact}",
        "think of this: {fact}",
    ),
    *("there's something I came across {place} {time}. {fact}", "I want to send {friend} something, {fact}"),
    *(
        "what I have in mind is easy to describe: {fact}",
        "it came up {place} {time}, {fact}",
        "name this for me, {fact}",
    ),
)
# The other one asks first.
ASK_OPENERS = (
    *(
        "what did you see {place} {time}?",
        "what was {friend} talking about {time}?",
        "so what's it about, the thing {place}?",
    ),
    *(
        "what were you looking at {time}?",
        "what did {friend} show you {time}?",
        "what's that you found {place} {time}?",
    ),
    *("you said there was something {place} {time}, what was it like?", "what did {friend} bring {time}?"),
    *(
        "tell me about that thing you saw {time}, the one {place}",
        "what have you got there, something {friend} sent {time}?",
    ),
    *(
        "what's new? {friend} said you found something {place} {time}",
        "what was on your mind {time}, {friend} wondered",
    ),
    *(
        "describe what you saw {place} {time} and I'll name it",
        "{friend} couldn't tell me what you meant {time}, can you?",
    ),
    *("why were you laughing {time}, something {place}?", "remember the thing {place} {time}? what was it again?"),
    *("what's the thing {friend} mentioned {time}?", "which thing did you mean {time}, the one {place}?"),
    *("show me what {friend} was on about {time}", "what do you want me to look for? {friend} said something {time}"),
)
REACTIONS = (
    *(
        "haha",
        "ok",
        "nice",
        "oh?",
        "really",
        "cool",
        "I see",
        "go on",
        "hm okay",
        "lol",
        "interesting",
        "tell me more",
    ),
    *("no way", "sounds good", "wow", "right", "mhm", "aha", "oh wow", "fair enough", "ha, okay", "uh-huh", "got it"),
    *("I'm listening", "sounds familiar", "never heard of it", "good to know", "funny", "makes sense", "sure", "yes?"),
)
FOLLOW_UPS = (
    *(
        "what else?",
        "can you say more?",
        "anything else?",
        "and?",
        "what else do you know about {it}?",
        "give me more",
    ),
    *("hmm, what's {it} like?", "not sure yet, more details?", "one more hint?", "how would you describe {it}?"),
    *("I'm not there yet, keep going", "what more can you tell me?", "any other hint?", "hmm, could be many things"),
    *("still too vague for me", "and what else comes to mind?", "okay, and beyond that?", "go on, what else?"),
    *("that could be anything haha", "how would I recognise {it}?", "is there anything special about {it}?"),
)
ECHOES = (
    *("so {fact}?", "ah, so {fact}", "wait, {fact}, right?", "and {fact}, no?", "isn't that where {fact}?"),
    *("if I got that right, {fact}", "hm, and I'd guess {fact}", "oh, and {fact}?", "right, and {fact}"),
    *("sounds like the one I know, {fact}", "then {fact}, I suppose", "okay so {fact}"),
)
REQUESTS = (
    *("can you show me one?", "do you have a picture?", "got a picture of that?", "what is it?", "know what I mean?"),
    *(
        "could you find it for me?",
        "send me one",
        "which is it?",
        "can you guess?",
        "show me",
        "any idea?",
        "what's it called?",
    ),
    *(
        "do you know the name?",
        "I'd love to see one",
        "please find me that",
        "what am I thinking of?",
        "that's the one I want",
    ),
    *("let me see it", "so what would that be?", "got anything like that?", "do you know the one?"),
)
GAME_OPENERS = (
    *("let's play, I'm thinking of something, {fact}", "guess what I have in mind! {fact}", "I spy something, {fact}"),
    *(
        "your turn to guess: {fact}",
        "twenty questions? first hint: {fact}",
        "riddle for you: {fact}",
        "what am I? hint: {fact}",
    ),
    *(
        "I drew something {time}, guess! {fact}",
        "bet you can't guess this, {fact}",
        "here's a hint, {fact}",
        "clue one: {fact}",
    ),
    *("guess what {friend} gave me {time}: {fact}", "charades, but in words. {fact}", "new round! {fact}"),
    *("{friend} and I played this {time}, you try: {fact}", "a riddle I read {place}: {fact}", "easy one: {fact}"),
)
GUESSES = (
    *(
        "is it {name}?",
        "{name}?",
        "maybe {name}?",
        "you mean {name}?",
        "hmm, {name}?",
        "I'd say {name}",
        "sounds like {name}",
    ),
    *(
        "could it be {name}?",
        "my guess is {name}",
        "{name}, obviously!",
        "wild guess: {name}",
        "is that {name} by any chance?",
    ),
    *("oh, {name}, right?", "it must be {name}", "like {name}?", "ok then {name}", "are you talking about {name}?"),
)
DENIALS = (
    *(
        "no, not that",
        "nope",
        "no",
        "not that one",
        "close, but no",
        "wrong",
        "nah",
        "no no",
        "not quite",
        "almost, but no",
    ),
    *("no, something else", "haha no", "sorry, no", "that's not it", "good guess but no", "not what I mean", "cold"),
    *("no, not {name}", "not {name}, no", "nope, that's different", "I thought so too at first, but no", "wrong one"),
)
ASKED_FOR_WRONG = (
    *(
        "can you show me {name}?",
        "do you have {name}?",
        "I'm looking for {name}",
        "find me {name} please",
        "{name}, please",
    ),
    *("{friend} was talking about {name} {time}", "I think I saw {name} {place} {time}", "I want to see {name}"),
    *("let's talk about {name}", "I need a picture of {name} for {friend}", "send me {name}", "got {name}?"),
    *("what about {name}, like the one {place}?", "{friend} would like {name}", "I was thinking of {name} {time}"),
)
GIVEN_WRONG = (
    *(
        "here you go, {name}",
        "sure, {name}",
        "there it is, {name}",
        "{name}, coming right up",
        "okay, {name}. like this?",
    ),
    *(
        "this one? {name}",
        "found {name} for you",
        "{name} it is",
        "I have {name} here",
        "like this {bare}?",
        "done: {name}",
    ),
)
CORRECTIONS = (
    *(
        "sorry, I meant the other one, {fact}",
        "no wait, I mixed it up. {fact}",
        "hm, not that. the one I mean: {fact}",
    ),
    *(
        "oops, wrong word. {fact}",
        "that's not what I meant, {fact}",
        "I take that back, {fact}",
        "no, the other thing: {fact}",
    ),
    *(
        "my mistake, I was thinking of something else: {fact}",
        "ah no, forget that. {fact}",
        "I used the wrong name, {fact}",
    ),
    *(
        "not {name}, I confuse the two. {fact}",
        "wait, {name} is wrong. {fact}",
        "similar, but no: {fact}",
        "let me rephrase, {fact}",
    ),
)
SWITCHES = (
    *(
        "anyway, {fact}",
        "by the way, something else: {fact}",
        "but back to what I wanted, {fact}",
        "different topic, {fact}",
    ),
    *(
        "oh before I forget, I'm looking for something. {fact}",
        "enough of that. {fact}",
        "now for something else: {fact}",
    ),
    *(
        "changing the subject, {fact}",
        "okay never mind that, new one: {fact}",
        "speaking of nothing in particular, {fact}",
    ),
    *(
        "actually, what I really came for: {fact}",
        "forget that for a moment, {fact}",
        "on another note, {fact}",
        "btw {fact}",
    ),
    *("that reminds me of something quite different, {fact}", "let's leave that. {fact}", "unrelated, but {fact}"),
)
SMALL_TALK = (
    *("how was your day?", "it rained all day here", "I'm so tired", "did you sleep well?", "what are you up to?"),
    *(
        "work was long {time}",
        "{friend} says hi",
        "I was at {friend}'s {time}",
        "we had visitors {time}",
        "busy week?",
    ),
    *(
        "nothing new here",
        "I'm bored",
        "finally weekend",
        "did {friend} call you {time}?",
        "I was out with {friend} {time}",
    ),
    *(
        "have you heard from {friend}?",
        "I slept badly {time}",
        "long time no see!",
        "I'm stuck in a meeting with {friend}",
    ),
)
SMALL_ANSWERS = (
    *(
        "not bad, you?",
        "same here",
        "all good",
        "haha same",
        "oh no",
        "nothing much",
        "fine, thanks",
        "tell me about it",
    ),
    *("poor you", "nice", "I know the feeling", "a bit tired", "glad to hear that", "oh that's nice", "yeah", "so-so"),
)
