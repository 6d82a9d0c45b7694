"""Text messages in the format of the UCI SMS Spam Collection: `label<TAB>message`, ham or spam.

Every message is made from a pattern, and splits hold out whole patterns. No single word identifies spam, because ham
mentions prizes, calls, codes and money too. In spam, a stranger lures or frightens and asks for an action.
"""

from dataclasses import dataclass

from draw import Draw

N_SPAM, N_HAM = 260, 1760

SPAM = (
    # a reward, and an action to get it
    "Congrats! Your number was drawn in our {month} raffle. Ring {phone} before {day} to get your £{n}",
    "You are this weeks winner of a {gift}!! Text {word} to {code} now. 150p per msg",
    "FINAL NOTICE: we still hold your {gift}. To have it sent call {phone} from a landline, quote {ref}",
    "hi its the {shop} team, as a loyal customer u get a {gift} 4 free, just reply {word}",
    "£{n} is waiting for you! Nobody has claimed it yet. Go to {url} and enter ur card to collect",
    "You have 1 new voice mail about your {gift}. Listen on {phone}, 50p a min",
    "Our records show you never collected ur {gift}. Send {word} to {code} today or lose it",
    "2 tickets to {town} are yours {name}! Confirm with {word} to {code}. Over 18s only",
    "Lucky you. The computer picked ur mobile for £{n}, call our prize desk {phone} b4 {time}",
    "Dear customer, thank you for shopping at {shop}. Claim your thank you gift at {url} within 24 hrs",
    "a holiday for two in {town} and £{n} pocket money? it is yours, text {word} to {code}",
    "This is not a joke: you got picked for the {gift}, we only need your address. reply with it now",
    "{shop} draw: ticket {ref} won! is it yours? of course it is. call {phone} and take home £{n}",
    "Well done, 3 right answers. Last question to win a {gift}: is {town} a town? send yes to {code}",
    "Your loyalty points end tonight! swap them for a {gift} on {url}",
    "Someone left you a present at our office. For the pick up code dial {phone}, calls cost £3",
    "We tried to reach you twice about the £{n}. Third and last try, ring {phone} today",
    "Every reply wins. Say {word} to {code} and a {gift} comes to you by post",
    "Bonus for {town} people only: first 50 who text {word} to {code} share £{n}",
    "No catch! Test the new phone, then keep it. Sign up on {url}, seats go fast",
    "u were chosen 2 try our {gift}. say ok and we bill u nothing for 7 days, then £4 a week",
    "Mr postman came with a {gift} but you were out. Pay £2 at {url} so he comes back",
    # a threat, and an action against it
    "Your account at the bank is locked. Unlock it now on {url} with your pin",
    "ALERT: someone in {town} paid £{n} with your card. Was it not you? Call {phone} at once",
    "Your parcel is held because £1.99 is missing. Settle it here {url} or it goes back",
    "Last warning! unpaid fine of £{n}. Pay today at {url} or the court will visit you",
    "We could not take your last payment. To keep your phone on, give us ur card no at {url}",
    "Your tax refund of £{n} runs out {day}. Fill in the form with your bank details: {url}",
    "dear user ur mail box is full. confirm ur password by reply or we delete all",
    "Police notice {ref}: your name came up. Speak to our officer on {phone} before {time} today",
    "The power in your house goes off {day} unless you ring {phone} and settle £{n}",
    "A new device in {town} used your password. If that was not you, click {url} and log in",
    "Your sim stops working tonight. Keep it alive: send {word} to {code}",
    "Insurance says you had a crash. You can still get £{n} for it, reply {word} or stop",
    "Your virus guard ended {day}, your photos are at risk, renew for £{n} on {url}",
    "Customs keep your package {ref} in {town}. Release fee £{n}, pay by text: {word} to {code}",
    # a stranger who pretends to be a friend
    "hi mum my phone broke this is my new number. can u send £{n} today, will explain later",
    "hey its me, lost my wallet in {town}, pls wire £{n} to this number, dont tell dad",
    "hello stranger, saw ur picture and cant stop thinking of u. txt me back on {code} x",
    "{name}? long time! i put our old photos here {url} have a look, u need to log in",
    "guess who likes u? somebody u know. find out who, call {phone} (60p min)",
    "Im in town tonight and alone.. wanna chat? ring {phone} and ask for {name}",
    "miss u babe, y dont u answer? my new line is {phone}, its only 1 pound a min x",
    "hi its {name} from work, boss needs 3 gift cards now, buy them and text me the codes, i pay u back",
    "is that you in this film?? {url} everyone is laughing lol",
    "sorry wrong number but u seem nice! i make £{n} a week with coins, shall i show u? {url}",
    "a friend has sent u a secret card. read it: text {word} to {code}, costs £1.50",
    "dad its urgent, i cant talk, pay this bill for me {url} and ill give it back {day}",
    "me and {name} want to meet u, pics inside, send {word} to {code} now",
    "hey sweetie, my heart says you are the one. i only need £{n} for the train to come to u",
    # an offer, and an action to get it
    "Earn £{n} a day from home, no skill needed. Reply {word} and start {day}",
    "Loans up to £{n} even if the bank said no. Text {word} to {code}, money in an hour",
    "Still paying for your calls? Half price line for you only, ring {phone} now",
    "Get the top tune of the week on your phone! send {word} to {code}, £3 a week till you stop it",
    "New: our horse tips never fail. {name} won £{n}. Join for £5 on {url}",
    "Debts? A law from {month} wipes them away. See if you can: text {word} to {code}",
    "Lose ten pounds by {day}! Doctors hate it. Order the tea now {url}",
    "Invest £{n} in the {town} mine and double it by {month}. Spaces end at {time}, call {phone}",
    "Good news, your old car is worth £{n} more than u think. send the plate to {code}",
    "Hot singles near {town} wait for your msg. txt {word} to {code} 18+ £1.50/msg",
    "cheap pills no doctor no questions. ask for the list on {phone}",
    "You qualify for a new boiler, paid by the state! only today, answer {word}",
    "Our agent {name} is in {town} {day}. He buys gold at top price, book him: {phone}",
    "Learn to trade in 5 minutes. {name} from {town} gave up her job! start at {url}",
    "Watch every match for nothing, first send {word} to {code}, then £9 a month",
    "A survey for you: 3 questions, £{n} as thanks, we just need ur bank details. {url}",
    "Your horoscope for {day} is here and it is big. Hear it on {phone}, 75p/min",
    "The poor dogs of {town} need you tonight. Give £{n} by text: {word} to {code}",
    "vote for {name} in the final! text {word} to {code}, u might win a {gift}, each vote £2",
    "Cash for your opinion. Download our app from {url}, allow all, and earn £{n}",
    "{shop} closes for good, everything for £1, pay in advance on {url}",
    "Upgrade ready: the newest mobile for ur old one. call {phone} and have ur card at hand",
    "Double data this week for {shop} users. Activate: {word} to {code}. Chgs apply",
    "You may be owed £{n} for your old loan. Don't wait till {day}, answer {word}",
    "we buy any house in {town}, cash tomorrow. just text ur address and {word} to {code}",
    "private: a person who died in {town} had your name. £{n} to inherit, write to {url}",
    "Last chance 2 join the {month} club, 1st msg free then £2 each, reply {word}",
    "Win or not, you get paid! Bet £5 with {shop} and we add £{n}. Open {url}",
    "your ringtone {ref} is ready! pick it up: {word} to {code} (£4.50)",
    "Want to know what {name} said about you? The answer costs a pound, text {word} to {code}",
    "dont pay for gas till {month}! switch tonight on {phone}, our lines are open",
    "Sir/Madam, I have £{n} to move out of the land and need an honest friend. Reply in secret",
    "the first 9 callers get a {gift}, the rest a surprise. quick, {phone}",
    "Bank of {town}: to stop the payment of £{n} reply with the code we just sent you",
    "hi mum, dropped my phone in the sink, use this number, i need £{n} for rent by {time}",
    "hello is this {name}? we met in {town}, u gave me ur number, add me on {url} for my pics",
    "earn while you sleep, {name} makes £{n} a night, reply {word} for the secret",
    "join our gold club, first week free, after that £{n}, answer {word} to begin",
    "your mail account closes {day}, reply with ur password to keep it open",
    "swap ur {shop} points for a {gift} before they expire, log in at {url}",
    "a nice lady in {town} wants 2 know u better, reply {word} to hear her voice",
    "pay no more tax! our man {name} shows u how, book a seat on {phone}",
    "{shop} owes you a {gift}. tell us your card number and we send it {day}",
    "no more debt by {month}, our experts wait, reply {word}",
    "dad i am in hospital in {town}, send £{n} to my friend's account pls, dont call",
    "ur phone has 3 viruses, clean it now with our app {url}",
    "we noticed a log in from {town}, reply with ur pin to show it was u",
    "this offer dies at {time}: a {gift} for the next caller on {phone}",
    "dear friend, £{n} lies in a bank in {town}, i need only your account to move it",
    "final round! you and {name} are left, text {word} to {code} to beat her and win £{n}",
)

HAM = (
    # harmless messages about prizes, gifts, offers, codes, calls and payments
    "i won the raffle at the fair! a {gift}, can u believe it",
    "{name} won £{n} on the horses and wont stop talking about it",
    "did u get the {gift} i left on your desk? happy birthday",
    "The {shop} sale starts {day}, shall we go together? i want a new coat",
    "call me when u get home, my number here is {phone}",
    "if im not in, ring the office on {phone} and ask for {name}",
    "here is the plumbers number {phone}, he is free {day}",
    "Your parcel was left with the man next door, no need to do anything",
    "Hi, the glasses you left with {shop} in {town} are done. We are open till {time}",
    "Reminder: dentist {day} at {time}. See you then",
    "Your order {ref} has been sent and comes {day}. Thank you",
    "the code for the gate is {code}, dont lose it again",
    "paid the gas bill, it was £{n}. ur half can wait till {month}",
    "u owe me £{n} for the tickets, but no hurry",
    "the bank called, my new card is here at last. cash again!",
    "i put £{n} in your account for the trip, buy urself something",
    "Free tonight? we could get a pizza at {time}",
    "are u free {day}? {name} needs help with the boxes",
    "dont answer those prize texts, my gran lost £{n} that way",
    "got another msg that i won a {gift}, deleted it, they think im stupid",
    "Some man rang and said my account is locked. I put the phone down lol",
    "the film starts at {time}, tickets are under {ref}",
    "your train ticket to {town} is booked, seat {ref}, i paid already",
    "mum says thank u for the {gift}, she cried",
    "please tell {name} the loan is paid back, we are out of debt!",
    "they picked me for the team!! first match {day} in {town}",
    "Library: the book you asked for is in. Have it by {day} if you like",
    "your pin is not in the drawer, it is in the blue tin, as always",
    "the school has my new mobile now, the old one is for {name}",
    "Sorry i missed ur call, was in the shower. is it urgent?",
    "urgent! we have no milk left and {name} is awake",
    "reply when u can, no rush, its about {day}",
    "Text me the address pls, i am in {town} and lost",
    "send me the photo of the {pet} with the hat, need a laugh",
    "stop at {shop} and get bread, i give u the money later",
    "i can collect the kids today if u want, say yes or no",
    "claim your seat early, the hall was full last {month}",
    "have u seen the new phone from {shop}? £{n}!! who pays that",
    "their offer was £{n} for the car, i said no way",
    "hurry, our bus leaves {time} and this is the last one today",
    "Do you still have my card reader? need it to log in to the bank {day}",
    "our cat won 2nd prize in {town}. 2nd! she was robbed",
    "The tax man gave me £{n} back, drinks are on me {day}",
    "thanks for the voucher, got two shirts at {shop} with it",
    "the winner of the cake contest is... {name}, with that awful {food} thing",
    "win or lose, we meet at {name}s place after the match",
    "my new number is {phone}, the old phone fell in the river",
    "ring the doctor on {phone} for me? cant talk here",
    "Meeting moved to {time}, dial in with {code} as usual",
    "the photos from {town} are on {url}, pick those u like",
    "our team page {url} has the times for {day}, no password",
    "recipe is at {url}, i used less {food} and it was fine",
    "only £{n} for the flight to {town}, {name} found it, are u in?",
    "Your table for 4 at {time} is confirmed. See you {day}, {shop}",
    "the landlord says the fine is his, not ours. lucky us",
    "lost my wallet but a nice man brought it back, cash and all!",
    "can u lend me £{n} till {day}? ask in person if thats better",
    "Broke my phone again so im on {name}s, back home at {time}",
    "i have ur password book, u left it at mine, u really should not write them down",
    "the raffle is {day}, {name} sells the tickets at church, £1 each",
    "we have 2 spare tickets for {town}, want them? no charge",
    "The charity run made £{n}! Thank you all, see you next {month}",
    "we picked a name at last: {name}! call u from the ward at {time}",
    "that quiz last night.. 1 answer short of the £{n}, i could scream",
    "the horoscope said id meet a stranger and then the postman bit the dog",
    "work from home {day}, so i can wait for the boiler man",
    "ur bonus is in this months pay, boss told me, act surprised",
    "the insurance will pay for the fence, £{n}, i have the letter here",
    "no more bets with {name}, i had to wear the hat in {shop}",
    "the vote is {day} at {time}, town hall, bring ur card",
    "{name}s new number: {phone}. She says the old one got calls all night",
    "taxi is {phone} if u need one, they take cards now",
    "the vet is on {phone} till {time}, the {pet} looks better though",
    "wifi at the cottage is {ref}{code}, and the key hangs by the door",
    "our flight is {ref}{code}, lands at {time}, dont bother to come",
    "Your taxi is outside, a white car, plate {ref}{code}",
    "Your hair appointment with {name} is {day} at {time}. To change it ring {phone} any time",
    "{shop}: the shoes you asked about are back, £{n}. No hurry, we keep them till {month}",
    "Thank you for your payment of £{n}. Your next bill comes in {month}",
    "Your phone is mended, £{n} as agreed, {shop} in {town}",
    "School: the trip costs £{n}, please give it to your teacher by {day}",
    "Surgery: your test results are normal. Questions? we are on {phone}",
    "a stranger on the train gave me his seat and a {gift}, what a day",
    "bought u a {gift} for xmas, oh no now i told u",
    "gran says the man from the bank was a fraud, she rang the police herself on {phone}",
    "look what i found on {url}, our old street!",
    "{name} sent a link {url} with the songs for the party, they are great",
    "can u get my parcel? the slip says {ref}{code}, bring your own id",
    "i sold the bike for £{n} to a guy from {town}, cash in hand",
    "i sent {word} to {code} as a joke and it cost me £{n}, never again",
    "to vote for {name} u text {word} to {code}, i did it ten times lol",
    "{name} fell for it: she rang {phone} and now the bill is £{n}",
    "whats this? my phone says reply {word} to {code}. not me, is it yours?",
    "the radio says text {word} to {code} for the song, but i like ours better",
    "we paid £{n} at {url} for the school trip, all done now",
    "told dad not to call {phone}, they charge by the minute. he laughed",
    "after {name} texted {word} to {code} the ads never stopped, poor thing",
    "i did claim the {gift} from {shop}, it was real! they gave it to me at the till",
    "forgot my password for {url} again, luckily {name} had it",
    "the museum in {town} is free on {day}, but the cafe costs £{n}",
    "You called {phone} at {time}? that was my work phone, use this one",
    "win tickets? no, i just paid £{n} like everybody else",
    "text {name} on {phone} about the keys, my battery dies",
    "stop calling the house phone, {name} is asleep! ring my mobile",
    "the job in {town} pays £{n} a day, i start {day}, wish me luck",
    "they locked my account cos i typed the pin wrong, went to the bank and its fine now",
    # other harmless messages
    "ok see u at {time} then",
    "im on the bus, {n} mins late, sorry",
    "what do u want for dinner? there is {food} and eggs",
    "Good night love, sleep tight",
    "haha no way, {name} said that?",
    "the {pet} ate my sock. again",
    "where are you? we wait at the station in {town}",
    "cant come {day}, my mum is ill",
    "Did you feed the {pet}? i forgot this morning",
    "rain all day in {town}, we stayed in bed and read",
    "how was ur exam? i bet it went fine",
    "going to {name}s for tea, want to join us",
    "that was the best {food} i ever had, give my thanks to ur aunt",
    "i will be in the garden so just come round the back",
    "you forgot your keys, they are under the pot",
    "lets talk {day}, im too tired now",
    "we are at the river, bring a towel and the {pet}",
    "ugh, headache. going home at {time}",
    "do we need salt? im in {shop}",
    "u were right about {name}, i should have listened",
    "Happy new year to you and yours from all of us in {town}",
    "he fell off the bike but is ok, only a scratch on the knee",
    "my teacher says i talk too much. me?!",
    "Is the window shut? i think i left it open",
    "Tell dad the {pet} is back, she was in the shed all the time",
    "we leave at {time}, be ready this once",
    "i like the green one better, but its your wall",
    "snow!! look out of the window",
    "the baby said her first word today and it was {food}",
    "no idea, ask {name}, she knows these things",
    "on my way, get the kettle on",
    "cant find the map, is it in ur bag?",
    "I had a dream that we lived in {town} and had {n} of those {pet}s",
    "choir is off this week, the hall is cold",
    "are we still on for {day}? i could do {time}",
    "that film was so sad, i had to hold {name}s hand",
    "i finish at {time}, then i walk over",
    "grandpa is asleep in the chair with the {pet} on his head",
    "dont wait for me, eat while its warm",
    "thx for the lift, u saved me",
    "have you read to the end? i cant stop thinking of it",
    "the soup needs {n} more minutes",
    "i am so proud of you",
    "{name} is moving to {town} in {month}, sad but happy for her",
    "left my coat at yours, will fetch it {day}",
    "we took the wrong road and ended up in {town}, lovely though",
    "who left the {food} out all night? it smells",
    "walked {n} miles today, my feet hurt",
    "the new boss is nice, she brought {food}",
    "ok ok, u win, i will say sorry to {name}",
    "what time does the shop in {town} shut",
    "hope u feel better soon, drink tea",
    "Lovely to see you {day}, you have not changed",
    "{name} and me are at the bar, come down",
    "we should paint the kitchen before {month}",
    "they cut the big tree by the church, it looks bare now",
    "hows the new place? is it quiet there",
    "his speech was long, we all fell asleep",
    "the heating is broken so bring a jumper",
    "ask ur sister if she wants the old bed",
    "i think i saw {name} in {town} with a beard",
    "no school {day}! the kids went mad",
    "will do, x",
    "can you pick up the {pet} from the vet at {time}",
    "we planted {n} onions, it was your idea",
    "u looked great last night, everyone said so",
    "its my turn to cook, dont laugh",
    "cousin {name} is here till {month}, he snores",
    "running late, start without me",
    "the roof leaks over ur bed so i moved the books",
    "remember that song from {town}? it was on the radio",
    "u can have my bike, i never use it",
    "lets not tell {name} yet, its a surprise",
    "the exam results are out {day}, im scared",
    "i miss you, come home soon",
    "made too much {food}, come and get some",
    "so tired i put salt in my tea",
    "the {pet} had {n} babies in the wardrobe, what now",
    "meet by the clock at {time}, i wear the red hat",
    "Did {name} say why? nobody tells me a thing",
    "we sang for {n} hours and now i have no voice",
    "dad asks if the car is still making that noise",
)

NAMES = "anna ben clara dave Emma frank Grace henry iris Jack kate leo Mary nora Oscar paul josé zoë tom sue".split()
TOWNS = "Dunmore Harwick Selmouth Ashbury Brinton Melford Kelbrook Tarrow".split()
SHOPS = "Marlow's,Penny & Co,Brightways,the corner shop,Hobb & Sons,Café Lune,Tilly's,MegaMart".split(",")
GIFTS = ("hamper,£50 voucher,new camera,weekend away,music player,box of wine,bike,tv,£20 gift card,watch,phone").split(
    ","
)
WORDS = "WIN GO YES CASH TAKE MINE STAR GOLD PLAY JOIN OK LUCK".split()
FOODS = "cheese honey bread soup cake jam curry rice fish".split()
PETS = "cat dog hen rabbit pony goat parrot".split()
DAYS = "monday tuesday Wed thursday fri Saturday sunday tmrw".split()
MONTHS = "january March may June august october december".split()
TIMES = "6,7pm,8:30,noon,5.15,3pm,10am,half past nine".split(",")
URLS = "www.{w}-{t}.co.uk,http://{w}.{t}.com,{w}{t}.net/id".split(",")
SHORT_FORMS = {
    "you": "u",
    "are": "r",
    "to": "2",
    "for": "4",
    "please": "pls",
    "and": "n",
    "the": "d",
    "today": "2day",
    "be": "b",
    "your": "ur",
}


@dataclass(frozen=True)
class Message:
    """A message and its pattern."""

    text: str
    pattern: str


def spam_lines(split_seed: int) -> list[str]:
    """The lines of the file, with both classes evenly mixed."""
    lines = {label: [f"{label}\t{message.text}" for message in found] for label, found in messages(split_seed).items()}
    return _interleaved(lines["spam"], lines["ham"])


def messages(split_seed: int) -> dict[str, list[Message]]:
    """The messages of each class in file order: train, validation, test. No two parts share a pattern."""
    draw = Draw(1000 + split_seed)
    return {"spam": _class_messages(draw, SPAM, N_SPAM), "ham": _class_messages(draw, HAM, N_HAM)}


def part_sizes(n: int) -> tuple[int, int, int]:
    """Number of messages for (train, validation, test): 70, 10 and 20 % of n."""
    first, second = n * 7 // 10, n * 8 // 10
    return first, second - first, n - second


def patterns_of_parts(draw: Draw, patterns: tuple[str, ...]) -> list[list[str]]:
    """The patterns for (train, validation, test): 58, 12 and 30 %."""
    patterns = draw.shuffled(patterns)
    first, second = int(0.58 * len(patterns)), int(0.70 * len(patterns))
    return [patterns[:first], patterns[first:second], patterns[second:]]


def _class_messages(draw: Draw, patterns: tuple[str, ...], n: int) -> list[Message]:
    found, seen = [], set()
    for part, size in zip(patterns_of_parts(draw, patterns), part_sizes(n), strict=True):
        filled = []
        for i in range(size):
            pattern = part[i % len(part)]
            text = _unseen(draw, pattern, seen)
            seen.add(text)
            filled.append(Message(text, pattern))
        found += draw.shuffled(filled)
    return found


def _unseen(draw: Draw, pattern: str, seen: set[str]) -> str:
    """A message from the pattern that is not in `seen`."""
    while (text := _roughened(draw, pattern.format(**_slots(draw)))) in seen:
        pass
    return text


def _slots(draw: Draw) -> dict[str, str]:
    host = {"w": draw.pick("mobi win shop tone home info".split()), "t": draw.pick("24 now uk club".split())}
    return {
        "name": draw.pick(NAMES),
        "town": draw.pick(TOWNS),
        "shop": draw.pick(SHOPS),
        "gift": draw.pick(GIFTS),
        "word": draw.pick(WORDS),
        "food": draw.pick(FOODS),
        "pet": draw.pick(PETS),
        "day": draw.pick(DAYS),
        "month": draw.pick(MONTHS),
        "time": draw.pick(TIMES),
        "url": draw.pick(URLS).format(**host),
        "n": draw.pick("10 15 20 25 30 40 60 75 90 150 200 500".split()),
        "phone": draw.pick(["07", "08", "09"]) + draw.digits(9),
        "code": "8" + draw.digits(4),
        "ref": draw.pick("K L R T".split()) + draw.digits(3),
    }


def _roughened(draw: Draw, text: str) -> str:
    """The message as typed on a phone, with the flaws of a careless export; the same for both classes."""
    if draw.chance(0.25):
        text = text.lower()
    elif draw.chance(0.06):
        text = text.upper()
    if draw.chance(0.3):
        text = _abbreviated(draw, text)
    if draw.chance(0.5):
        text = text.replace("&", "&amp;")
    if draw.chance(0.03):
        text = text.replace("£", "&lt;#&gt; ")
    text += draw.pick(["", "", "", "", "", "", ".", "!", "..", "…", " x", " :)", " ü"])
    if draw.chance(0.03):
        text = '"' + text  # the quote is never closed, as in the real file
    elif draw.chance(0.03):
        text += '"'
    return text


def _abbreviated(draw: Draw, text: str) -> str:
    return " ".join(SHORT_FORMS[word] if word in SHORT_FORMS and draw.chance(0.6) else word for word in text.split(" "))


def _interleaved(spam: list[str], ham: list[str]) -> list[str]:
    """Both classes evenly mixed; the order within a class is kept."""
    total = len(spam) + len(ham)
    lines, taken = [], 0
    for i in range(total):
        take_spam = (i + 1) * len(spam) // total > taken
        lines.append(spam[taken] if take_spam else ham[i - taken])
        taken += take_spam
    return lines
