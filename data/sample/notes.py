"""Short messages for the corpus: notes that people send, notices, and tricks with an explanation.

They have the same subjects as spam.tsv, but no pattern in common with it. A trick is a lure, a threat or a false
friend, together with an action that a stranger asks for. A plain note may mention the same things.
"""

from draw import Draw
from world import PEOPLE, TOWNS, rows

LURES = (
    "You have won {prize}.",
    "{Prize} is waiting for you.",
    "We are happy to tell you that you have won {prize}.",
    "Your name was drawn and {prize} is yours.",
    "{Prize} for you, free of charge!",
    "Free for you: {prize}.",
    "You are the lucky winner of {prize}.",
    "Your number has been picked for {prize}.",
    "As a good customer you get {prize}.",
    "A reward is ready for you: {prize}.",
    "Make {sum} a week from your own home.",
    "Borrow {sum} without any questions.",
    "Old loans can be paid back to you, up to {sum}.",
    "New pills, new tea, a new you by {day}.",
    "The newest phone for nothing at all.",
    "Top songs and films on your phone.",
    "Half price on all calls, only this week.",
    "Gold and coins: turn {sum} into more.",
    "A girl near {town} wants to chat with you.",
    "Somebody has a crush on you.",
    "Your points can be changed into {prize}.",
    "Tips for the races that never fail.",
    "Work for us and earn {sum} a day.",
    "Cash loans for everybody, even with a bad name at the bank.",
    "We give away {prize} to our customers.",
    "Thanks for shopping with us: {prize} is on its way.",
    "You were chosen from all of {town}.",
    "The draw is over and your ticket has won.",
    "Cheap pills, sent to your door.",
    "Lose weight while you sleep.",
    "Double your money by {day}.",
    "Win {prize} in our quiz.",
    "Your car is worth {sum} more.",
    "A secret friend sent you a card.",
    "Watch all films for nothing.",
    "Upgrade your mobile today.",
    "Get the tune of the week for your phone.",
    "The first month of our club is free.",
    "You may be owed {sum}.",
    "A rich man left you {sum}.",
    "Save half on your gas bill.",
    "We buy houses for cash.",
    "Hungry dogs need your help.",
    "A survey, with {sum} as thanks.",
    "Our stars know what {day} brings you.",
    "You are our best customer.",
    "Ladies in {town} want to meet you.",
    "Your free song is ready.",
    "Vote for the best singer and win.",
)
FRIGHTS = (
    "Your account has been closed.",
    "Your bank card was used in {town}.",
    "We could not deliver your parcel.",
    "Your payment of {sum} did not go through.",
    "You have not paid a fine of {sum}.",
    "Your password is old.",
    "Somebody tried to get into your account.",
    "Your phone will be cut off on {day}.",
    "The tax office owes you {sum}.",
    "The court has a letter for you.",
    "Your power will be cut off tonight.",
    "Your photos will be lost.",
    "This is the police of {town}.",
    "Your insurance ends on {day}.",
    "A fee for your parcel is still open.",
    "Your mail box is full.",
    "Final warning about your bill of {sum}.",
    "A stranger used your name in {town}.",
    "Your bank has stopped your card.",
    "We tried to reach you three times.",
    "You had a crash and can get {sum}.",
    "Your sim card stops working.",
    "Your last payment failed.",
    "Your loan is late.",
    "There is a virus on your phone.",
    "Your points are lost on {day}.",
    "Customs keep your parcel in {town}.",
    "Dear user, your account is at risk.",
)
FALSE_FRIENDS = (
    "Hi mum, I lost my phone, this number is my new one.",
    "Hello dear, we have not met but I like you.",
    "It is me, I am stuck in {town} without my purse.",
    "Dad, I need help and cannot talk.",
    "I am your boss and I am in a meeting.",
    "Hey, are you the one in this picture?",
    "I have wanted to meet you for so long, my love.",
    "We were at school together, do you remember me?",
    "I am a rich widow and have nobody in the world.",
    "Sorry, wrong number, but you sound kind.",
    "Hey babe, I am alone tonight.",
    "Mum, this is urgent.",
    "Hi, long time no see, I have pictures of us.",
    "Your friend has a secret about you.",
    "It is {name} from work.",
    "I miss you, sweetie, why do you not answer?",
    "I make {sum} a week and can show you how.",
    "My train stopped in {town} and my card is gone.",
    "An honest friend is what I need, sir.",
    "Guess who likes you?",
)
ACTS = {
    "a call to a stranger": (
        "Call {phone} now.",
        "To claim it call {phone}.",
        "Ring {phone} before {day}, calls cost 50p a minute.",
        "Phone us on {phone} at once.",
        "Dial {phone} and give the code {ref}.",
        "Our agents wait for your call on {phone}.",
        "Speak to us today on {phone}.",
        "Our lines are open on {phone}.",
        "Listen to it on {phone}, 60p a min.",
        "Ask for {name} on {phone}.",
        "Book on {phone} and have your card ready.",
    ),
    "a paid reply": (
        "Text {keyword} to {short}.",
        "Send {keyword} to {short} to get it.",
        "Just reply {keyword}.",
        "Reply {keyword} now, each message costs 2 pounds.",
        "Answer with {keyword} today, to stop text stop.",
        "Txt {keyword} to {short}, cost 150p.",
        "Send the word {keyword} to {short} and start.",
        "Say {keyword} to {short}, 2 pounds a week.",
        "Reply {keyword} or stop.",
        "Get it with {keyword} to {short}.",
        "Write back to me, love.",
        "Text me on {short} tonight.",
    ),
    "money": (
        "Send me {sum} today please.",
        "Pay {small} first.",
        "Wire {sum} and I will pay you back.",
        "Buy gift cards and send me the codes.",
        "You only pay {small} for the post.",
        "Transfer {small} as a fee.",
        "Can you lend me {sum} and tell nobody?",
        "Give {small} by text to {short}.",
        "Pay the bill for me, I cannot now.",
        "Send the money to this number.",
        "Join for only {small}.",
        "Please pay in advance.",
    ),
    "a secret": (
        "Send us your password.",
        "Confirm your pin by text.",
        "We need your bank details.",
        "Enter your card number on {site}.",
        "Reply with the code we sent you.",
        "Log in on {site} with your pin.",
        "Give your name and address and card.",
        "Reply with your password or we erase all.",
        "Text us your address.",
        "Tell us your date of birth.",
        "Have your card at hand.",
    ),
    "a click": (
        "Click {site} now.",
        "Go to {site} to claim.",
        "Open {site} before it ends.",
        "Sign up on {site}.",
        "Fill in the form on {site}.",
        "Visit {site} within a day.",
        "See it here: {site}",
        "Order now on {site}.",
        "Renew it on {site}.",
        "Settle it on {site}.",
        "Download the app from {site}.",
        "Join us on {site}.",
    ),
}
HURRY = (
    "",
    "",
    "",
    "Hurry!",
    "Last chance.",
    "Today only.",
    "Do not wait.",
    "It ends on {day}.",
    "Only for the first ten.",
    "This is the final notice.",
    "Be quick.",
    "Over 18 only.",
    "Terms apply.",
)
GREETINGS = ("", "", "", "Hi {name},", "Dear {name},", "{name},", "hey,", "Hello,", "ok,", "So,")
NEWS = (
    "at the fair I won {prize}.",
    "my aunt won {prize} and cried.",
    "the prize goes to {name}, we came second.",
    "the parcel came today, thank you.",
    "I paid the bill of {sum}.",
    "the bank gave me a new card.",
    "I lost my phone, but {name} found it.",
    "my new number is {phone}.",
    "I got {prize} for my birthday.",
    "you still owe me {small} for the cake.",
    "they fined me {sum} for the car.",
    "I will be home at {time}.",
    "the bus is late again.",
    "we are at the station.",
    "the dog ate the cake.",
    "I am so tired today.",
    "it rains in {town} and we stay in.",
    "the film was good, I cried.",
    "our team lost.",
    "dinner is ready.",
    "mum is ill and stays in bed.",
    "the baby has a new tooth.",
    "the free seats are all gone.",
    "the tickets to {town} cost {sum}.",
    "work was long.",
    "there was a trick message again, I did not answer it.",
    "gran nearly sent {sum} to a thief.",
    "the shop has coats at half price.",
    "I have changed my password.",
    "the code for the door is {short}.",
    "your order {ref} is on its way.",
    "your book is ready at the library.",
    "your table is booked for {time}.",
    "the doctor will see you on {day} at {time}.",
    "the post office is shut on {day}.",
    "I got my money back from the tax office.",
    "the loan is paid.",
    "I put {small} into your purse.",
    "the pictures of {town} are on {site}.",
    "I saw {name} on a horse.",
    "the cat is on the roof.",
    "we leave on {day}.",
    "the soup is still warm.",
    "the meeting is at {time}.",
    "I could not sleep.",
    "the house is so quiet without you.",
    "{name} told me all about it.",
    "the choir meets on {day}.",
    "I sent {keyword} to {short} and it cost {small}.",
    "{name} called {phone} and got a big bill.",
    "I never text {keyword} to {short}.",
    "the song show wants us to send {keyword} to {short}.",
    "I paid {sum} on {site} for the trip.",
    "my old password for {site} is gone.",
    "dad sold gold for {sum}.",
    "the loan man was here.",
    "they gave me {prize} in the shop.",
    "I have a call at {time}.",
    "the police found my bike.",
    "the insurance paid for the roof.",
    "my card works again.",
    "mum has your {small}.",
    "we have a new phone in the kitchen.",
    "I dreamed of a holiday in {town}.",
    "the free bus goes at {time}.",
    "the fee for the club is {small}.",
    "you were right.",
    "the garden looks good.",
    "he said sorry.",
    "my boss is in a meeting.",
    "she has won the race.",
    "I forgot my keys.",
    "the baby sleeps.",
    "I love this song.",
    "she rang the bank and it was fine.",
    "I deleted that prize message.",
    "it was a fraud, I told the police.",
    "{name} won {sum} at cards.",
    "our tickets are in the drawer.",
    "your glasses are ready at the shop.",
    "your hair is booked for {day}.",
    "your bill of {sum} is paid, thank you.",
    "the school trip is {small} a child.",
    "I bought {prize} for dad.",
    "my phone is broken.",
    "the link to the pictures is {site}.",
    "the plumber is {phone}.",
    "the landlord wants {sum}.",
    "I found {small} in my coat.",
    "I got a bonus at work.",
    "the quiz was hard.",
    "we came last in the raffle.",
    "your parcel is with the man next door.",
    "I feel ill.",
    "my head hurts.",
    "the boiler is broken.",
    "it snows!",
    "I walk home.",
    "I cooked too much.",
    "we took the wrong road.",
    "he fell off his bike.",
    "the cat had babies.",
    "gran is asleep in the chair.",
    "I saw your sister in {town}.",
    "they cut down the tree.",
    "my feet hurt.",
    "I passed the exam!",
    "she is moving to {town}.",
    "the wedding is on {day}.",
    "I left my coat at your place.",
    "the hall is cold.",
    "I dreamed of you.",
    "the wine is for {name}.",
    "I made a cake.",
    "you looked great.",
    "my shift ends at {time}.",
    "I bet {small} on a horse and lost.",
    "I signed the form at the office.",
)
ASKS = (
    "",
    "",
    "",
    "",
    "Call me when you are home.",
    "Ring me later.",
    "Can you bring some bread?",
    "See you on {day}.",
    "Are you free on {day}?",
    "Shall we go?",
    "Please feed the cat.",
    "Reply when you have time.",
    "No need to answer.",
    "Tell {name}.",
    "Have you seen my keys?",
    "Meet me at {time}.",
    "Send me the photo.",
    "Do not wait for me.",
    "Can I have your old phone?",
    "Give me back the {small} some day.",
    "Love to all.",
    "Sleep well.",
    "Thank you!",
    "I will pay for the tea.",
    "Stop at the shop please.",
    "What a day!",
    "Come and see.",
    "Good luck.",
    "Is that fine?",
    "If I am late, call {name} on {phone}.",
    "There is nothing to pay.",
    "You can fetch it when you like.",
    "Ask {name}.",
    "Do not laugh.",
    "Be ready at {time}.",
    "What do you think?",
    "I will pick you up.",
    "Bring a coat.",
    "Do we need milk?",
    "See you then.",
    "No hurry.",
    "Kiss the baby.",
    "Where are you?",
    "Can I call you at {time}?",
    "Pay me back when you like.",
    "Let us talk on {day}.",
    "Are you well?",
    "You can pay on {day}.",
    "To change the day, ring {phone}.",
    "Do not tell dad.",
    "My treat!",
    "Take care.",
)
PRIZES = (
    "a prize",
    "a gift",
    "a voucher",
    "a bonus",
    "a holiday",
    "a new phone",
    "a car",
    "two tickets",
    "a camera",
    "a watch",
    "a bike",
    "a weekend in {town}",
    "a crate of apples",
    "cash",
    "the first prize",
    "the raffle",
    "{sum}",
)
SUMS = "20 pounds,50 pounds,100 pounds,200 pounds,500 pounds,1000 pounds,five hundred pounds".split(",")
SMALL = "1 pound,2 pounds,3 pounds,5 pounds,10 pounds".split(",")
KEYWORDS = "WIN GO YES CASH PRIZE STAR GOLD PLAY JOIN OK LUCK CLAIM LOVE HELP".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
TIMES = "six,seven,7pm,8:30,noon,3pm,10am,half past nine".split(",")
SITES = (
    "www.prize-shop.com,www.win24.net,http://my.bank-help.com,www.club.co.uk,photo-page.net,http://town.info"
).split(",")

SHORT_FORMS = {"you": "u", "your": "ur", "are": "r", "to": "2", "for": "4", "please": "pls", "and": "n"}

# In the first two layouts the verdict follows directly, so the last token of the message must encode it.
TRICK_LAYOUTS = (
    "{message} TRICK! It asks for {reason}.",
    "{message} Trick, it wants {reason}.",
    "Message: {message}\nThis is a trick: it asks for {reason}.",
    '"{message}"\nDo not trust this message. It wants {reason}.',
    "Is this a trick? {message}\nYes, it is a trick: the stranger wants {reason}.",
    "Task: trick or plain?\nText: {message}\nAnswer: a trick, it asks for {reason}.",
)
PLAIN_LAYOUTS = (
    "{message} PLAIN! No trick in it.",
    "{message} Plain, a note from somebody we know.",
    "Message: {message}\nThis is a plain note.",
    '"{message}"\nThis message is fine. Nobody wants anything bad.',
    "Is this a trick? {message}\nNo, it is a plain note.",
    "Task: trick or plain?\nText: {message}\nAnswer: a plain note.",
)
SHARE_AT_ONCE = 0.7


def note(draw: Draw) -> str:
    """One document: a message with a verdict."""
    trick = draw.chance(0.5)
    message, reason = _trick(draw) if trick else (_plain(draw), "")
    layouts = TRICK_LAYOUTS if trick else PLAIN_LAYOUTS
    layout = draw.pick(layouts[:2] if draw.chance(SHARE_AT_ONCE) else layouts[2:])
    return layout.format(message=_typed(draw, message), reason=reason)


def _trick(draw: Draw) -> tuple[str, str]:
    reason = draw.pick(list(ACTS))
    bait = draw.pick(draw.pick([LURES, LURES, FRIGHTS, FRIGHTS, FALSE_FRIENDS]))
    parts = [bait, draw.pick(ACTS[reason]), draw.pick(HURRY)]
    if draw.chance(0.2):
        parts = [parts[1], parts[0], parts[2]]
    if draw.chance(0.2):
        parts.insert(0, draw.pick(GREETINGS))
    return _filled(draw, parts), reason


def _plain(draw: Draw) -> str:
    return _filled(
        draw, [draw.pick(GREETINGS), draw.pick(NEWS), draw.pick(NEWS) if draw.chance(0.3) else "", draw.pick(ASKS)]
    )


def _filled(draw: Draw, parts: list[str]) -> str:
    return " ".join(part.format(**_slots(draw)) for part in parts if part)


def _slots(draw: Draw) -> dict[str, str]:
    town, total = draw.pick(rows(TOWNS))[0], draw.pick(SUMS)
    prize = draw.pick(PRIZES).format(town=town, sum=total)
    return {
        "name": draw.pick(rows(PEOPLE))[0],
        "town": town,
        "sum": total,
        "prize": prize,
        "Prize": prize[:1].upper() + prize[1:],
        "small": draw.pick(SMALL),
        "keyword": draw.pick(KEYWORDS),
        "day": draw.pick(DAYS),
        "time": draw.pick(TIMES),
        "site": draw.pick(SITES),
        "phone": draw.pick(["07", "08", "09"]) + draw.digits(9),
        "short": "8" + draw.digits(4),
        "ref": draw.pick(["K", "L", "R", "T"]) + draw.digits(3),
    }


def _typed(draw: Draw, message: str) -> str:
    """The message as typed on a phone: often in lower case, often with abbreviations."""
    if draw.chance(0.35):
        message = message.lower()
    if draw.chance(0.3):
        message = " ".join(
            SHORT_FORMS[word] if word in SHORT_FORMS and draw.chance(0.6) else word for word in message.split(" ")
        )
    return message + draw.pick(["", "", "", "", "", "!", "..", " x", " :)"])
