"""Writes the embedded sample dataset: invented Chinese and English reviews with a sentiment label.

``python -m bert_tfx.sample.generate`` rewrites ``train.tsv``, ``dev.tsv``, ``test.tsv`` and
``vocab.txt`` beside this file, byte for byte the same each time: all randomness comes from one
seeded generator.

A row is composed in three steps. The *plan* fixes its language, label, kind (how the sentiment is
expressed: plainly, negated, in a contrast, ...) and decorations (what makes the row awkward to
read: quotes, emoji, full-width digits, ...) with exact shares per split, so that no split lacks a
feature. The *core* is a list of sentences that carry the sentiment. Neutral sentences and
character-level changes are added last.

Which half of a contrast decides is the one rule a reader has to know: what comes after "but" and
"但是", and the main clause of "although" and "虽然".
"""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

SEED = 20_240_229
SPLIT_SIZES = {"train": 4_000, "dev": 800, "test": 800}
HEADER = "label\ttext_a\tlanguage"
NEGATIVE, POSITIVE = "0", "1"


@dataclass(frozen=True)
class Aspect:
    """One thing that a review can praise or blame.

    Attributes:
        subject: the noun phrase that begins a clause.
        good: gradable words of praise; each reads well with and without a negation.
        bad: gradable words of blame, likewise.
        plural: whether an English verb after ``subject`` is plural.
        pronoun: what stands for the subject when it is named again; nothing in Chinese.
    """

    subject: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    plural: bool
    pronoun: str


@dataclass(frozen=True)
class Domain:
    """Everything that can be said about one kind of thing, in one language.

    Attributes:
        aspects: what is judged.
        good_events: whole clauses that are good news.
        bad_events: whole clauses that are bad news.
        openers: neutral sentences to begin with; slots such as ``{n}`` are filled at random.
        details: neutral sentences for anywhere.
        foreign: neutral sentences with words of the other language or script.
        accented: neutral sentences with accented letters (English only).
        quoted: names that a writer would put in quotes.
        quoting: a neutral sentence that begins with such a name, at ``{quoted}``.
        past: whether English clauses are in the past tense.
    """

    aspects: tuple[Aspect, ...]
    good_events: tuple[str, ...]
    bad_events: tuple[str, ...]
    openers: tuple[str, ...]
    details: tuple[str, ...]
    foreign: tuple[str, ...]
    quoted: tuple[str, ...]
    quoting: str
    accented: tuple[str, ...] = ()
    past: bool = True


@dataclass(frozen=True)
class Language:
    """The grammar of one language.

    In the forms, ``{s}`` is a subject, ``{be}`` its verb, ``{a}`` and ``{b}`` are two words of
    the same polarity; ``{x}`` is the clause that is conceded and ``{y}`` the one that decides;
    ``{p}`` is praise, ``{c}`` criticism and ``{v}`` a verdict.

    Attributes:
        code: ``"zh"`` or ``"en"``.
        domains: the domains.
        any_good: gradable praise that fits any subject.
        any_bad: gradable blame that fits any subject.
        strong_good: praise too strong to be negated.
        strong_bad: blame too strong to be negated.
        strong_forms: clauses for the strong words.
        good_forms: clauses of praise.
        bad_forms: clauses of blame.
        negated_forms: clauses that turn the polarity of the word round.
        contrast_forms: sentences in which one of two opposed clauses decides.
        weighed_forms: praise, criticism, and a verdict that decides.
        ambiguous_forms: praise and criticism without a verdict.
        good_verdicts: closing praise.
        bad_verdicts: closing blame.
        space: what stands between two sentences.
        ends: what ends the last sentence, repeated by weight.
        breaks: what ends the other sentences, repeated by weight.
        joints: what joins two clauses of one sentence, repeated by weight.
        short_length: the least and greatest length of a very short row, in words or characters.
        long_length: the least and greatest length aimed at for a long row, in characters.
    """

    code: str
    domains: tuple[Domain, ...]
    any_good: tuple[str, ...]
    any_bad: tuple[str, ...]
    strong_good: tuple[str, ...]
    strong_bad: tuple[str, ...]
    strong_forms: tuple[str, ...]
    good_forms: tuple[str, ...]
    bad_forms: tuple[str, ...]
    denied_bad_forms: tuple[str, ...]
    denied_good_forms: tuple[str, ...]
    conceded_good_forms: tuple[str, ...]
    conceded_bad_forms: tuple[str, ...]
    contrast_forms: tuple[str, ...]
    weighed_forms: tuple[str, ...]
    ambiguous_forms: tuple[str, ...]
    good_verdicts: tuple[str, ...]
    bad_verdicts: tuple[str, ...]
    space: str
    ends: tuple[str, ...]
    breaks: tuple[str, ...]
    joints: tuple[str, ...]
    short_length: tuple[int, int]
    long_length: tuple[int, int]


def _aspect(
    subject: str, good: str, bad: str, *, plural: bool = False, pronoun: str | None = None
) -> Aspect:
    """An Aspect whose words are given as one string with spaces."""
    if pronoun is None:
        pronoun = ("they" if plural else "it") if subject.isascii() else ""
    return Aspect(subject, tuple(good.split()), tuple(bad.split()), plural, pronoun)


# === English ===

ENGLISH_HOTEL = Domain(
    aspects=(
        _aspect("the room", "clean quiet comfortable bright", "dirty noisy cold small"),
        _aspect("the bed", "clean comfortable soft", "hard dirty small"),
        _aspect("the staff", "friendly helpful polite", "rude careless slow", plural=True),
        _aspect("the breakfast", "tasty fresh", "bland stale cold"),
        _aspect("the bathroom", "clean bright", "dirty small cold"),
        _aspect("the location", "quiet good", "noisy bad"),
        _aspect("check-in", "quick easy smooth", "slow messy confusing"),
        _aspect("the price", "fair good", "high unfair"),
    ),
    good_events=(
        "they upgraded us for free",
        "we slept like babies",
        "they let us check out late",
        "reception looked after our bags with a smile",
    ),
    bad_events=(
        "the lift broke down twice",
        "nobody answered the phone",
        "the towels had stains",
        "they charged us twice",
    ),
    openers=(
        "We stayed {n} nights in {month}",
        "I booked two rooms for a family trip to {city}",
        "This was a business trip to {city}",
        "We paid {price} a night",
        "Room {room}, {n} nights",
        "We arrived at {time} by train",
        "I came here with my parents in {month}",
        "It is {n} minutes on foot from the station",
    ),
    details=(
        "Our room was on floor {n}",
        "There is a bus stop across the street",
        "Breakfast is served from 7:00 to 10:30",
        "We had a room facing the garden",
        "The deposit was {price}",
        "Parking is under the building",
        "The tram stops two blocks away",
    ),
    foreign=(
        "The sign at the door says 欢迎光临",
        "The menu card was in 中文 and English",
    ),
    accented=(
        "There is a café in the lobby",
        "Our suite had Art Nouveau décor",
        "My fiancée chose this hotel",
        "The crèche on the first floor opens at 9:00",
        "We had drinks with the maître d'hôtel",
    ),
    quoted=("Deluxe Double", "Garden Room", "City View", "Family Suite", "Early Bird"),
    quoting="{quoted} is what we booked",
)

ENGLISH_RESTAURANT = Domain(
    aspects=(
        _aspect("the food", "tasty fresh", "bland greasy cold"),
        _aspect("the soup", "tasty fresh", "bland greasy cold"),
        _aspect("the bread", "fresh tasty soft", "stale hard"),
        _aspect("the beef", "soft tasty fresh", "hard bland cold"),
        _aspect("the waiters", "friendly polite helpful quick", "rude slow careless", plural=True),
        _aspect("the dining room", "clean quiet comfortable bright", "noisy dirty small"),
        _aspect("the service", "quick friendly polite", "slow rude careless"),
        _aspect("the bill", "fair clear", "high wrong"),
    ),
    good_events=(
        "the chef came out to say hello",
        "we cleaned our plates",
        "they found us a table right away",
        "the kids asked for seconds",
    ),
    bad_events=(
        "we waited an hour for our food",
        "they forgot half of our order",
        "there was a hair in my bowl",
        "the fish smelled off",
    ),
    openers=(
        "We had dinner here on {day}",
        "This was a lunch for {n} people",
        "I came with colleagues after work",
        "We paid {price} for {n} of us",
        "We sat down at {time}",
        "It was my birthday dinner in {month}",
        "I ordered the set menu for {price}",
        "A friend from {city} took me here",
    ),
    details=(
        "We had a table by the window",
        "The kitchen closes at {time}",
        "I had the mushroom soup and a salad",
        "The place seats about forty",
        "We shared {n} dishes",
        "There is a second branch in {city}",
        "We ordered dumplings and green tea",
    ),
    foreign=(
        "We ordered 小笼包 and tea",
        "The 麻婆豆腐 was on the set menu",
        "On the menu it is called 红烧肉",
    ),
    accented=(
        "I ordered the crème brûlée",
        "We shared a plate of jalapeño poppers",
        "It is a small café near the river",
        "My entrée was the sautéed cod",
        "We drank two glasses of rosé",
    ),
    quoted=("Chef's Choice", "Family Feast", "Happy Hour", "Business Lunch", "House Special"),
    quoting="{quoted} is what we ordered",
)

ENGLISH_FILM = Domain(
    aspects=(
        _aspect("the plot", "clever moving clear", "dull predictable confusing"),
        _aspect("the acting", "natural moving", "clumsy stiff"),
        _aspect("the ending", "clever moving beautiful", "predictable confusing dull"),
        _aspect("the dialogue", "clever funny natural", "clumsy dull stiff"),
        _aspect("the music", "beautiful moving", "dull annoying"),
        _aspect("the camera work", "beautiful clever", "messy clumsy"),
        _aspect("the story", "moving funny clever", "dull slow confusing predictable"),
        _aspect("the lead actors", "natural funny", "stiff clumsy", plural=True),
    ),
    good_events=(
        "the whole room laughed",
        "I cried at the end, in a good way",
        "two hours flew by",
        "people clapped at the end",
    ),
    bad_events=(
        "I fell asleep halfway through",
        "people walked out early",
        "I kept checking my watch",
        "half of the jokes fell flat",
    ),
    openers=(
        "I saw it with my sister on {day}",
        "We watched it at home last night",
        "Tickets were {price} each",
        "We went to the {time} screening",
        "I watched the subtitled version",
        "It runs for almost {n} hours with the adverts",
        "I knew nothing about the book",
        "It came out in {month}",
    ),
    details=(
        "We sat in row {n}",
        "It is the director's second feature",
        "Most of it takes place on a ferry",
        "It was filmed in {city}",
        "It is based on a short story",
        "The room was about half full",
        "The cast is mostly new faces",
    ),
    foreign=(
        "The Chinese title is 纸船",
        "The credits say 谢谢观看",
    ),
    accented=(
        "The main character is a naïve young clerk",
        "It is a road movie with a cliché or two",
        "It opens with a scene in a café",
        "The heroine's fiancé is a pianist",
        "It has a déjà vu sequence in the middle",
    ),
    quoted=("Paper Boats", "The Last Lantern", "Nine Winters", "A Door in the Sea", "Low Tide"),
    quoting="{quoted} is the film we picked",
)

ENGLISH_GADGET = Domain(
    aspects=(
        _aspect("the screen", "bright clear smooth", "dull small"),
        _aspect("the battery", "reliable good", "weak unreliable"),
        _aspect("the sound", "clear natural", "weak dull"),
        _aspect("the case", "sturdy neat beautiful", "flimsy ugly"),
        _aspect("the buttons", "smooth sturdy", "stiff flimsy small", plural=True),
        _aspect("the manual", "clear useful simple", "confusing useless messy"),
        _aspect("the set-up", "easy quick simple", "slow confusing annoying"),
        _aspect("the price", "fair good", "high unfair"),
    ),
    good_events=(
        "it runs for days on one charge",
        "everything worked out of the box",
        "my mother uses it every day and loves it",
        "it survived a drop without a scratch",
    ),
    bad_events=(
        "it died after a week",
        "it overheats all the time",
        "a screw was missing",
        "it arrived with a scratch",
    ),
    openers=(
        "I bought this {gadget} in {month}",
        "I paid {price} for this {gadget}",
        "I got this {gadget} for my father",
        "It is my second {gadget} in {n} years",
        "I have used this {gadget} for {n} weeks",
        "I ordered the {gadget} in grey",
        "This {gadget} was a birthday present",
    ),
    details=(
        "I mostly use it on the train",
        "The box holds a cable and a charger",
        "It comes in {n} colours",
        "It weighs about {room} grams",
        "I have the model from last year",
        "The shop also sells it for {price}",
        "I use it with an older phone",
    ),
    foreign=(
        "The label on the back is in 中文",
        "The box says 合格证",
    ),
    accented=(
        "I use it in a café most mornings",
        "I wrote my résumé on it",
        "The colour is called Rosé",
        "I read a few blasé reviews before I bought it",
    ),
    quoted=("Travel Edition", "Plus", "Night Blue", "Starter Kit", "Series B"),
    quoting="{quoted} is the version I have",
    past=False,
)

ENGLISH_CLOTHES = Domain(
    aspects=(
        _aspect("the fabric", "soft comfortable sturdy", "thin stiff flimsy"),
        _aspect("the colour", "bright beautiful", "dull ugly"),
        _aspect("the cut", "comfortable neat beautiful", "ugly clumsy"),
        _aspect("the zip", "smooth sturdy reliable", "stiff flimsy"),
        _aspect("the stitching", "neat sturdy", "messy careless"),
        _aspect("the lining", "soft comfortable", "thin hard"),
        _aspect("the smell", "fresh clean", "bad annoying"),
        _aspect("the price", "fair good", "high unfair"),
    ),
    good_events=(
        "it fits like a glove",
        "it came out of the wash as good as new",
        "friends keep asking where I got it",
        "it looks even better than in the photos",
    ),
    bad_events=(
        "it shrank in the first wash",
        "a button fell off on day one",
        "the seam came apart",
        "the dye stained my shirt",
    ),
    openers=(
        "I bought this {garment} in {month}",
        "I paid {price} for this {garment}",
        "I got this {garment} for my brother",
        "I ordered the {garment} in a size M",
        "I have worn this {garment} for {n} weeks",
        "It is my second {garment} from this shop",
    ),
    details=(
        "I am 172 cm tall",
        "It comes in {n} colours",
        "I usually wear a size L",
        "I wear it to the office",
        "The label says 60% cotton",
        "My sister has the same one in green",
    ),
    foreign=(
        "The label says 纯棉 on one side",
        "The tag reads 中号",
    ),
    accented=(
        "The colour is called Crème",
        "I wore it to a soirée in {month}",
        "It has an appliqué on the left sleeve",
        "My fiancé has the same one",
    ),
    quoted=("Slim Fit", "Autumn Sale", "Sand Grey", "Weekend Line", "Easy Care"),
    quoting="{quoted} is what the tag says",
    past=False,
)

ENGLISH_DELIVERY = Domain(
    aspects=(
        _aspect("the courier", "polite quick friendly", "rude slow careless", pronoun="he"),
        _aspect("the delivery", "fast quick smooth", "slow late"),
        _aspect("the parcel", "clean neat", "dirty late"),
        _aspect("the tracking", "accurate clear reliable", "wrong confusing unreliable"),
        _aspect("the phone service", "helpful quick polite", "useless slow rude"),
        _aspect("the shipping fee", "fair good", "high unfair"),
        _aspect("the packing", "neat sturdy", "flimsy messy careless"),
    ),
    good_events=(
        "it arrived a day early",
        "he carried it up four floors",
        "they replaced the broken cup at once",
        "the refund came within hours",
    ),
    bad_events=(
        "it arrived a week late",
        "they left it out in the rain",
        "two of the plates were broken",
        "they lost my order",
    ),
    openers=(
        "I ordered on {day} evening",
        "The order was for {n} boxes",
        "It came from a warehouse in {city}",
        "I paid {price} for shipping",
        "The slot was {time} on {day}",
        "I sent a gift to my aunt in {city}",
        "It was order number {n} this year",
    ),
    details=(
        "The order number ends in {room}",
        "I live on floor {n}",
        "The box weighed about {n} kg",
        "They hand it over at the front door",
        "I ordered books and a lamp",
        "The sender was a shop in {city}",
        "Orders over {price} ship for free",
    ),
    foreign=(
        "The sticker on the box says 易碎",
        "The slip had 顺路 written on it",
    ),
    accented=(
        "The pickup point is the café next door",
        "It was a set of papier-mâché boxes",
        "I had ordered a sauté pan",
        "It was a gift for my fiancée",
    ),
    quoted=("Next Day", "Express", "Fragile", "Standard Plus", "Pickup Point"),
    quoting="{quoted} is the option I chose",
)

ENGLISH_APP = Domain(
    aspects=(
        _aspect("the layout", "clean simple clear", "messy confusing ugly"),
        _aspect("the search", "fast accurate useful", "slow useless unreliable"),
        _aspect("the new version", "reliable smooth fast", "unreliable slow"),
        _aspect("the login", "easy quick simple", "slow annoying confusing"),
        _aspect("the reminders", "useful clear accurate", "annoying useless late", plural=True),
        _aspect("the support people", "helpful quick polite", "useless slow rude", plural=True),
        _aspect("the sync", "fast reliable smooth", "slow unreliable"),
        _aspect("the free plan", "useful good", "useless bad"),
    ),
    good_events=(
        "it saves me an hour a day",
        "everything opens in a second",
        "they fixed my bug within a day",
        "my whole family uses it now",
    ),
    bad_events=(
        "it crashes every time I open it",
        "it drains my battery",
        "I lost all of my notes",
        "ads pop up on every page",
    ),
    openers=(
        "I have used it for {n} months",
        "I installed it in {month}",
        "I pay {price} a year",
        "I am on version {n}.{m}",
        "I use it for work and for school",
        "I moved here from another app",
        "I tried it on a tablet and a phone",
    ),
    details=(
        "I mostly use it on {day} evenings",
        "There are {n} tabs at the bottom",
        "The download is about {room} MB",
        "You sign in with an email address",
        "The settings are under the first tab",
        "There is a family plan for {price}",
    ),
    foreign=(
        "I have the language set to 中文",
        "The button still says 确定",
    ),
    accented=(
        "I use it in the café downstairs",
        "I keep my résumé in it",
        "The theme is called Café Noir",
        "It spells naïve with two dots",
    ),
    quoted=("Pro", "Dark Mode", "Family Plan", "Quick Notes", "Beta"),
    quoting="{quoted} is what I use",
    past=False,
)

ENGLISH = Language(
    code="en",
    domains=(
        ENGLISH_HOTEL,
        ENGLISH_RESTAURANT,
        ENGLISH_FILM,
        ENGLISH_GADGET,
        ENGLISH_CLOTHES,
        ENGLISH_DELIVERY,
        ENGLISH_APP,
    ),
    any_good=("good", "nice"),
    any_bad=("bad", "disappointing"),
    strong_good=("excellent", "wonderful", "superb", "fantastic", "outstanding", "lovely"),
    strong_bad=("terrible", "awful", "dreadful", "horrible", "appalling", "a disaster"),
    strong_forms=("{s} {be} {a}", "{s} {be} simply {a}", "{s} {be} truly {a}"),
    good_forms=(
        "{s} {be} {a}",
        "{s} {be} very {a}",
        "{s} {be} really {a}",
        "{s} {be} so {a}",
        "{s} {be} {a} and {b}",
        "I found {s} very {a}",
        "I found {s} {a}",
    ),
    bad_forms=(
        "{s} {be} {a}",
        "{s} {be} very {a}",
        "{s} {be} really {a}",
        "{s} {be} so {a}",
        "{s} {be} {a} and {b}",
        "I found {s} very {a}",
        "I found {s} {a}",
        "{s} {be} rather {a}",
    ),
    denied_bad_forms=(
        "{s} {be} not {a} at all",
        "{s} {be}n't {a} at all",
        "{s} {be} never {a}",
        "{s} {be} neither {a} nor {b}",
    ),
    denied_good_forms=(
        "{s} {be} not {a}",
        "{s} {be}n't {a}",
        "{s} {be} far from {a}",
        "{s} {be} hardly {a}",
    ),
    conceded_good_forms=("{s} {be} fairly {a}", "{s} {be} {a} enough"),
    conceded_bad_forms=("{s} {be} a bit {a}", "{s} {be} a little {a}"),
    contrast_forms=(
        "{x}, but {y}",
        "{x}, but {y}",
        "{x}, but {y}",
        "{x}; however, {y}",
        "{x}, yet {y}",
        "although {x}, {y}",
        "{y}, although {x}",
    ),
    weighed_forms=(
        "Pros: {p}. Cons: {c}. Overall: {v}",
        "On the plus side, {p}. On the minus side, {c}. All in all: {v}",
    ),
    ambiguous_forms=("Pros: {p}. Cons: {c}", "{p} and {c}"),
    good_verdicts=(
        "highly recommended",
        "I would come back any time",
        "worth every penny",
        "five stars from me",
        "a pleasant surprise",
        "money well spent",
        "I have no complaints",
        "I could not ask for more",
        "I do not regret a thing",
        "I am very happy with it",
        "we loved it",
        "I recommend it to everyone",
        "what more could you want?",
        "thumbs up",
    ),
    bad_verdicts=(
        "not recommended",
        "I would not come back",
        "a waste of money",
        "one star from me",
        "a nasty surprise",
        "save your money",
        "never again",
        "I want my money back",
        "I regret every minute",
        "I am very unhappy with it",
        "we hated it",
        "I recommend it to nobody",
        "who would pay for this?",
        "thumbs down",
    ),
    space=" ",
    ends=(".", ".", ".", ".", ".", "!", "!", "...", ""),
    breaks=(".", ".", ".", ".", ".", ".", "!", "!", "..."),
    joints=(". ", ". ", ", and ", " and "),
    short_length=(2, 6),
    long_length=(250, 330),
)

# === Chinese ===

CHINESE_HOTEL = Domain(
    aspects=(
        _aspect("房间", "干净 安静 舒服", "脏 吵 小 旧"),
        _aspect("床铺", "舒服 干净 柔软", "硬 脏 旧"),
        _aspect("前台", "热情 耐心 礼貌", "冷淡 敷衍"),
        _aspect("服务员", "热情 周到 耐心 礼貌", "冷淡 敷衍 粗心"),
        _aspect("早餐", "新鲜 好吃", "难吃 油腻"),
        _aspect("卫生间", "干净 舒服", "脏 小 旧"),
        _aspect("位置", "方便 安静", "吵 麻烦"),
        _aspect("价格", "便宜 合理 划算", "贵 离谱"),
    ),
    good_events=(
        "前台主动给我们升级了房型",
        "一觉睡到天亮",
        "服务员很快就送来了毛巾",
        "退房晚了也没有多收钱",
    ),
    bad_events=(
        "电梯坏了两次",
        "打前台电话没人接",
        "毛巾上有污渍",
        "热水忽冷忽热",
    ),
    openers=(
        "{month}带爸妈来{city}住了{n}晚",
        "公司出差住了{n}晚",
        "房费{price}一晚",
        "从车站走路{n}分钟就到",
        "晚上{time}才到酒店",
        "订了两间房",
        "住的是{room}房",
        "全家一起来{city}旅游",
    ),
    details=(
        "房间在{n}楼",
        "楼下就是公交站",
        "早餐从七点到十点",
        "窗外是一条小河",
        "押金{price}",
        "停车场在地下",
        "门口有一家超市",
    ),
    foreign=(
        "大堂有免费WiFi",
        "前台用wifi密码换了房卡",
        "check in用了{n}分钟",
        "在APP上订的房",
        "房间里有一台iPad可以点餐",
    ),
    quoted=("豪华大床房", "湖景房", "亲子房", "商务标间", "早鸟价"),
    quoting="{quoted}是我们订的房型",
)

CHINESE_RESTAURANT = Domain(
    aspects=(
        _aspect("牛肉", "新鲜 入味 好吃", "硬 咸 难吃"),
        _aspect("汤", "新鲜 入味", "咸 油腻 难喝"),
        _aspect("点心", "好吃 新鲜 精致", "难吃 油腻 硬"),
        _aspect("面条", "好吃 入味", "难吃 咸 油腻"),
        _aspect("服务员", "热情 周到 耐心 礼貌", "冷淡 敷衍 粗心"),
        _aspect("上菜", "快 及时", "慢 混乱"),
        _aspect("环境", "干净 安静 舒服", "吵 脏 旧"),
        _aspect("价格", "便宜 合理 划算", "贵 离谱"),
    ),
    good_events=(
        "每道菜都吃得干干净净",
        "老板还送了一份甜点",
        "孩子连吃了两碗",
        "刚坐下菜就来了",
    ),
    bad_events=(
        "等了一个小时才上菜",
        "汤里吃出一根头发",
        "点的菜少上了两道",
        "回家拉了肚子",
    ),
    openers=(
        "{day}晚上和同事来吃的",
        "我们{n}个人点了一桌菜",
        "人均{price}",
        "{time}到店",
        "朋友过生日在这里聚餐",
        "路过{city}时进来吃的",
        "点了{price}的套餐",
        "中午带孩子来吃饭",
    ),
    details=(
        "我们坐在靠窗的位子",
        "点了一份豆腐和一壶茶",
        "店里大概有十几张桌子",
        "晚上{time}打烊",
        "店在商场{n}楼",
        "一共点了{n}道菜",
        "门口可以停车",
    ),
    foreign=(
        "用APP排的号",
        "店里有wifi",
        "老板说加辣OK",
        "菜单上写着today special",
        "结账用的是VIP卡",
    ),
    quoted=("双人套餐", "招牌牛肉面", "今日特价", "老板推荐", "家庭套餐"),
    quoting="{quoted}是我们点的",
)

CHINESE_FILM = Domain(
    aspects=(
        _aspect("剧情", "精彩 感人 合理", "拖沓 老套 混乱"),
        _aspect("演技", "自然 细腻", "生硬 夸张"),
        _aspect("结局", "感人 精彩 合理", "老套 混乱"),
        _aspect("台词", "自然 精彩", "生硬 老套"),
        _aspect("配乐", "好听 自然", "难听 吵"),
        _aspect("画面", "精致 清晰 好看", "粗糙 模糊 难看"),
        _aspect("节奏", "快 自然", "慢 拖沓 混乱"),
        _aspect("特效", "精致 好看 自然", "粗糙 夸张"),
    ),
    good_events=(
        "全场笑声不断",
        "看到最后我哭了",
        "两个小时一晃就过去了",
        "散场时大家都在鼓掌",
    ),
    bad_events=(
        "看到一半就睡着了",
        "有人提前离场",
        "我一直在看手表",
        "笑点一个也没笑出来",
    ),
    openers=(
        "{day}和闺蜜一起去看的",
        "在家用电视看的",
        "票价{price}",
        "看的是{time}那一场",
        "{month}刚上映就去了",
        "没看过原著",
        "陪爸妈一起看的",
        "在{city}的影院看的",
    ),
    details=(
        "坐在第{n}排",
        "这是导演的第二部片子",
        "故事发生在一个小镇上",
        "片长两个小时左右",
        "演员大多是新人",
        "在{city}取的景",
        "影厅坐了一半的人",
    ),
    foreign=(
        "看的是IMAX场",
        "片尾有一首英文歌叫Paper Boats",
        "在APP上买的票",
        "主角的口头禅是ok",
        "看的是VIP厅",
    ),
    quoted=("纸船", "最后一盏灯", "海边的门", "九个冬天", "退潮"),
    quoting="{quoted}是{day}看的",
)

CHINESE_GADGET = Domain(
    aspects=(
        _aspect("做工", "精致 细腻", "粗糙 马虎"),
        _aspect("手感", "舒服 细腻", "粗糙 硬"),
        _aspect("音质", "清晰 好听", "模糊 难听"),
        _aspect("充电", "快 方便", "慢 麻烦"),
        _aspect("屏幕", "清晰 细腻 流畅", "模糊 小 卡"),
        _aspect("按键", "结实 好用", "硬 难用"),
        _aspect("包装", "精致 结实", "简陋 马虎"),
        _aspect("说明书", "清楚 简单", "模糊 混乱 简陋"),
        _aspect("价格", "便宜 合理 划算", "贵 离谱"),
    ),
    good_events=(
        "充一次电能用好几天",
        "到手就能用",
        "爸妈用得很顺手",
        "摔了一下也没坏",
    ),
    bad_events=(
        "用了一周就坏了",
        "一用就发烫",
        "少了一个螺丝",
        "外壳上有划痕",
    ),
    openers=(
        "{month}买的{gadget}",
        "花了{price}买的{gadget}",
        "给爸爸买的{gadget}",
        "这款{gadget}用了{n}周",
        "第二次买这个牌子的{gadget}",
        "活动时买的{gadget}",
        "公司年会抽到的{gadget}",
    ),
    details=(
        "一共有{n}种颜色",
        "盒子里有一根线和一个充电头",
        "平时上班路上用",
        "我买的是灰色",
        "重量大概{room}克",
        "店里标价{price}",
        "配的是旧手机",
    ),
    foreign=(
        "接口是USB的",
        "支持WiFi和NFC",
        "型号是X{n} Pro",
        "要先下载一个app",
        "系统默认是English",
    ),
    quoted=("升级版", "旗舰款", "夜空蓝", "学生套装", "周年款"),
    quoting="{quoted}是我买的那一款",
)

CHINESE_CLOTHES = Domain(
    aspects=(
        _aspect("面料", "柔软 舒服 细腻", "粗糙 硬"),
        _aspect("颜色", "好看 自然", "难看 夸张"),
        _aspect("款式", "好看 精致", "难看 老套 夸张"),
        _aspect("做工", "精致 细腻", "粗糙 马虎"),
        _aspect("拉链", "好用 结实", "硬 难用"),
        _aspect("尺码", "准确 清楚", "混乱 离谱 小"),
        _aspect("包装", "精致 结实", "简陋 马虎"),
        _aspect("价格", "便宜 合理 划算", "贵 离谱"),
    ),
    good_events=(
        "穿上特别显瘦",
        "洗了几次还跟新的一样",
        "同事都问在哪里买的",
        "实物比图片还好看",
    ),
    bad_events=(
        "洗一次就缩水了",
        "第一天扣子就掉了",
        "线头到处都是",
        "洗的时候掉色",
    ),
    openers=(
        "{month}买的{garment}",
        "花了{price}买的{garment}",
        "给弟弟买的{garment}",
        "这件{garment}穿了{n}周",
        "第二次在这家店买{garment}",
        "打折时买的{garment}",
    ),
    details=(
        "身高一米七二",
        "一共有{n}种颜色",
        "平时上班穿",
        "标签上写着含棉{n}成",
        "姐姐也有一件绿色的",
        "买的是中号",
    ),
    foreign=(
        "平时穿M码",
        "这次拍的是XL",
        "标签上写着made in China",
        "领口有个小logo",
        "直播间的小姐姐一直喊baby",
    ),
    quoted=("修身款", "秋季新款", "燕麦色", "清仓价", "基础款"),
    quoting="{quoted}是标签上写的",
)

CHINESE_DELIVERY = Domain(
    aspects=(
        _aspect("快递员", "礼貌 热情 耐心", "冷淡 粗心 敷衍"),
        _aspect("配送", "快 及时", "慢 混乱"),
        _aspect("包装", "结实 精致", "简陋 马虎"),
        _aspect("物流信息", "准确 清楚 及时", "混乱 模糊"),
        _aspect("客服", "耐心 热情 周到", "敷衍 冷淡"),
        _aspect("运费", "便宜 合理 划算", "贵 离谱"),
        _aspect("取件", "方便 快 简单", "麻烦 慢"),
    ),
    good_events=(
        "比预计早到了一天",
        "师傅帮忙搬上了四楼",
        "破的杯子马上给补发了",
        "退款当天就到账",
    ),
    bad_events=(
        "晚了一个星期才到",
        "箱子被雨淋湿了",
        "盘子碎了两个",
        "包裹弄丢了",
    ),
    openers=(
        "{day}晚上下的单",
        "一共{n}个箱子",
        "从{city}仓库发的货",
        "运费{price}",
        "约的是{time}送到",
        "给{city}的姑姑寄的礼物",
        "今年在这家下的第{n}单",
    ),
    details=(
        "单号最后三位是{room}",
        "我家住{n}楼",
        "箱子大概{n}公斤",
        "放在小区门口的柜子里",
        "买的是书和台灯",
        "满{price}包邮",
        "寄件地址在{city}",
    ),
    foreign=(
        "在APP上查的物流",
        "收到一条验证码叫PIN",
        "箱子上贴着fragile",
        "客服回了一句OK",
        "填的是VIP地址",
    ),
    quoted=("次日达", "易碎品", "送货上门", "标准件", "定时送"),
    quoting="{quoted}是我选的服务",
)

CHINESE_APP = Domain(
    aspects=(
        _aspect("界面", "好看 清楚 简单", "混乱 难看 粗糙"),
        _aspect("操作", "简单 方便 流畅", "麻烦 卡 难用"),
        _aspect("新版本", "流畅 好用", "卡 慢 难用"),
        _aspect("搜索", "准确 快 好用", "慢 难用 混乱"),
        _aspect("登录", "方便 快 简单", "麻烦 慢"),
        _aspect("提醒", "及时 准确", "混乱 麻烦"),
        _aspect("客服", "耐心 热情 周到", "敷衍 冷淡"),
        _aspect("启动", "快 流畅", "慢 卡"),
    ),
    good_events=(
        "每天帮我省下一个小时",
        "功能一看就懂",
        "反馈的问题第二天就修好了",
        "全家都在用",
    ),
    bad_events=(
        "一打开就闪退",
        "耗电特别厉害",
        "笔记全丢了",
        "到处都是弹窗",
    ),
    openers=(
        "用了{n}个月",
        "{month}下载的",
        "会员一年{price}",
        "现在是{n}.{m}版",
        "工作和学习都在用",
        "同学推荐下载的",
        "手机和平板都装了",
    ),
    details=(
        "一般{day}晚上用",
        "下面有{n}个按钮",
        "安装包大概{room}兆",
        "用手机号注册的",
        "设置在第一页",
        "家庭版要{price}",
    ),
    foreign=(
        "手机系统是Android",
        "这个APP可以导出PDF",
        "登录要收一封email",
        "图标改成了一个大写的N",
        "用wifi和流量都试过",
    ),
    quoted=("夜间模式", "会员版", "家庭共享", "快速记账", "内测版"),
    quoting="{quoted}是我常用的",
)

CHINESE = Language(
    code="zh",
    domains=(
        CHINESE_HOTEL,
        CHINESE_RESTAURANT,
        CHINESE_FILM,
        CHINESE_GADGET,
        CHINESE_CLOTHES,
        CHINESE_DELIVERY,
        CHINESE_APP,
    ),
    any_good=("好",),
    any_bad=("差",),
    strong_good=("一流", "没话说", "无可挑剔", "让人惊喜", "棒极了", "超赞"),
    strong_bad=("一塌糊涂", "糟糕透了", "不敢恭维", "让人失望", "烂透了", "差劲透了"),
    strong_forms=("{s}{a}", "{s}真是{a}", "{s}简直{a}"),
    good_forms=(
        "{s}很{a}",
        "{s}非常{a}",
        "{s}特别{a}",
        "{s}真的很{a}",
        "{s}太{a}了",
        "{s}挺{a}的",
        "{s}又{a}又{b}",
        "{s}既{a}又{b}",
    ),
    bad_forms=(
        "{s}很{a}",
        "{s}非常{a}",
        "{s}特别{a}",
        "{s}真的很{a}",
        "{s}太{a}了",
        "{s}又{a}又{b}",
        "{s}既{a}又{b}",
    ),
    denied_bad_forms=(
        "{s}一点也不{a}",
        "{s}一点都不{a}",
        "{s}既不{a}也不{b}",
    ),
    denied_good_forms=(
        "{s}不{a}",
        "{s}并不{a}",
        "{s}不算{a}",
        "{s}谈不上{a}",
    ),
    conceded_good_forms=("{s}还算{a}", "{s}倒是很{a}"),
    conceded_bad_forms=("{s}有点{a}", "{s}稍微{a}了点"),
    contrast_forms=(
        "虽然{x}，但是{y}",
        "虽然{x}，但是{y}",
        "虽然{x}，但{y}",
        "{x}，但是{y}",
        "{x}，不过{y}",
        "{x}，可是{y}",
        "{y}，虽然{x}",
    ),
    weighed_forms=(
        "优点：{p}；缺点：{c}。总的来说，{v}",
        "好的地方是{p}；不好的地方是{c}。总之{v}",
    ),
    ambiguous_forms=("优点：{p}；缺点：{c}", "{p}，{c}"),
    good_verdicts=(
        "不错",
        "真不错",
        "强烈推荐",
        "下次还会来",
        "物超所值",
        "五星好评",
        "没什么可挑的",
        "完全没有后悔",
        "非常满意",
        "值这个价",
        "推荐给大家",
        "超出预期",
        "还有什么可挑的？",
        "必须点赞",
    ),
    bad_verdicts=(
        "失望",
        "真失望",
        "不推荐",
        "不会再来了",
        "白花钱",
        "一星差评",
        "没什么可夸的",
        "现在非常后悔",
        "很不满意",
        "不值这个价",
        "劝大家别选",
        "低于预期",
        "谁还会再来？",
        "必须差评",
    ),
    space="",
    ends=("。", "。", "。", "！", "！", "～", ""),
    breaks=("。", "。", "。", "。", "，", "，", "，", "！", "……"),
    joints=("，", "，", "，", "。", "；"),
    short_length=(2, 6),
    long_length=(140, 350),
)

LANGUAGES = {"zh": CHINESE, "en": ENGLISH}

# === Fillers and decorations ===

Filler = Callable[[random.Random], str]


def _one_of(*choices: str) -> Filler:
    return lambda rng: rng.choice(choices)


def _number(least: int, greatest: int) -> Filler:
    return lambda rng: str(rng.randint(least, greatest))


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(10, 22)}:{rng.choice(('00', '10', '30', '45'))}"


def _english_price(rng: random.Random) -> str:
    amount = rng.choice((8, 15, 29, 39, 49, 75, 120, 199, 250, 1_280))
    cents = rng.choice(("", "", ".50", ".99"))
    return f"{rng.choice('$$€£')}{amount:,}{cents}"


def _chinese_price(rng: random.Random) -> str:
    amount = rng.choice((9, 18, 39, 59, 88, 128, 168, 199, 299, 1_280))
    return rng.choice(("{}元", "{}块", "￥{}", "¥{}")).format(amount)


FILLERS: dict[str, dict[str, Filler]] = {
    "en": {
        "n": _number(2, 9),
        "m": _number(0, 9),
        "room": _number(101, 899),
        "time": _clock,
        "price": _english_price,
        "day": _one_of("Monday", "Tuesday", "Friday", "Saturday", "Sunday"),
        "month": _one_of("January", "March", "May", "July", "October", "December"),
        "city": _one_of("Lisbon", "Turin", "Vienna", "Bristol", "Seattle", "Hangzhou"),
        "gadget": _one_of("phone", "tablet", "laptop", "smart watch", "e-reader"),
        "garment": _one_of("jacket", "sweater", "coat", "hoodie", "raincoat"),
    },
    "zh": {
        "n": _number(2, 9),
        "m": _number(0, 9),
        "room": _number(101, 899),
        "time": _clock,
        "price": _chinese_price,
        "day": _one_of("周一", "周三", "周五", "周六", "周日"),
        "month": _one_of("一月", "三月", "五月", "暑假", "国庆", "上个月"),
        "city": _one_of("杭州", "成都", "厦门", "西安", "青岛", "南京"),
        "gadget": _one_of("手机", "平板", "笔记本", "智能手表", "阅读器"),
        "garment": _one_of("外套", "毛衣", "大衣", "卫衣", "风衣"),
    },
}

GOOD_EMOJI = ("😊", "👍", "😍", "🎉", "🥰", "💯", "👏", "😋", "👍👍")
BAD_EMOJI = ("😡", "👎", "😭", "💔", "😤", "🙄", "😞", "😩", "👎👎")
# Seen too seldom in train to enter the vocabulary: every split holds unknown tokens.
RARE_EMOJI = tuple("🦑🪁🛶🧿🎻🦔🪴🧭🛷🥁🦜🪕🧵🛸🦩🥨🧶🪀🦚🧊🎐🦦🪗🐡")
# Sequences of several code points: zero-width joiners, variation selectors, skin tones.
GOOD_SEQUENCES = ("❤️", "☺️", "👍🏻", "🙆‍♀️", "👩‍❤️‍👨", "✌🏽")
BAD_SEQUENCES = ("☹️", "🤦‍♀️", "🤦🏽‍♂️", "🙅‍♀️", "😮‍💨", "👎🏻")
NEUTRAL_SEQUENCES = ("👨‍👩‍👧", "✈️", "☀️", "👩‍💻", "🧑‍🍳", "🏖️", "🌧️")
RARE_EMOJI_SHARE = 0.15
NEUTRAL_SEQUENCE_SHARE = 0.4

# Shares of the rows of one language and label; "plain" takes the rest.
KIND_SHARES = {
    "zh": {
        "short": 0.06,
        "long": 0.095,
        "negated": 0.13,
        "contrast": 0.12,
        "weighed": 0.03,
        "ambiguous": 0.01,
    },
    "en": {
        "short": 0.06,
        "long": 0.03,
        "negated": 0.13,
        "contrast": 0.12,
        "weighed": 0.03,
        "ambiguous": 0.01,
    },
}
# Labels turned round on purpose, as careless annotators would.
MISLABELLED_SHARE = 0.012

# Shares of the rows of one language and label, never on very short rows. The decorations of one
# group fall on different rows.
DECORATION_SHARES: dict[str, tuple[dict[str, float], ...]] = {
    "zh": (
        {"quoted_start": 0.04, "unclosed_quote": 0.04, "curly_quotes": 0.07},
        {"emoji": 0.06, "emoji_sequence": 0.07},
        {"foreign": 0.07},
        {"full_width_digits": 0.07},
        {"ellipsis": 0.07},
    ),
    "en": (
        {"quoted_start": 0.04, "unclosed_quote": 0.04},
        {"emoji": 0.06, "emoji_sequence": 0.07},
        {"foreign": 0.02, "accented": 0.075},
        {"casing": 0.1},
    ),
}
# How often a row holds a neutral sentence at its beginning and at its end.
OPENER_SHARE = 0.12
DETAIL_SHARE = 0.05
# How often a gradable word is one that fits any subject, without and with a negation.
ANY_SUBJECT_SHARE = 0.12
NEGATED_ANY_SUBJECT_SHARE = 0.2
# How often the clause that is conceded in a contrast says so itself.
HEDGED_SHARE = 0.35
# How often a negation is one that mostly goes with the other polarity.
UNUSUAL_NEGATION_SHARE = 0.08

# Words that a writer shouts rather than others.
SHOUTED = frozenset(
    ["not", "never", "very", "really", "so", "simply", "truly", "rather", "but", "neither"]
)
NUMERIC_SLOT = re.compile(r"\{(n|room|time|price)\}")
FULL_WIDTH_DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")

# === Vocabulary ===

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MIN_CHARACTER_COUNT = 4
MIN_WORD_COUNT = 4
SUFFIX_LENGTHS = (2, 3, 4)
MIN_SUFFIX_WORDS = 8

CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class Row(NamedTuple):
    """One line of a TSV file.

    Attributes:
        label: ``"0"`` (negative) or ``"1"`` (positive).
        text: the review, without tabs and line feeds.
        language: ``"zh"`` or ``"en"``.
    """

    label: str
    text: str
    language: str


class _Plan(NamedTuple):
    """What one row has to be."""

    kind: str
    decorations: frozenset[str]
    mislabelled: bool


def _fill(rng: random.Random, code: str, template: str) -> str:
    """Fills the slots of a neutral sentence."""
    return re.sub(r"\{(\w+)\}", lambda match: FILLERS[code][match[1]](rng), template)


def _gradable_clause(
    rng: random.Random,
    language: Language,
    domain: Domain,
    aspect: Aspect,
    *,
    positive: bool,
    negated: bool,
) -> str:
    """A clause about one aspect; ``positive`` is its meaning, negation included."""
    if negated:
        usual = positive is (rng.random() > UNUSUAL_NEGATION_SHARE)
        form = rng.choice(language.denied_bad_forms if usual else language.denied_good_forms)
    else:
        form = rng.choice(language.good_forms if positive else language.bad_forms)
    praise = positive is not negated
    first, second = rng.sample(aspect.good if praise else aspect.bad, 2)
    share = NEGATED_ANY_SUBJECT_SHARE if negated else ANY_SUBJECT_SHARE
    if "{b}" not in form and rng.random() < share:
        first = rng.choice(language.any_good if praise else language.any_bad)
    return _clause(form, domain, aspect, first, second)


def _clause(form: str, domain: Domain, aspect: Aspect, first: str, second: str = "") -> str:
    """Fills one clause form."""
    singular, plural = ("was", "were") if domain.past else ("is", "are")
    be = plural if aspect.plural else singular
    return form.format(s=aspect.subject, be=be, a=first, b=second)


def _second_clause(
    rng: random.Random, language: Language, domain: Domain, aspect: Aspect, *, positive: bool
) -> str:
    """One more clause about an aspect that was just named."""
    again = replace(aspect, subject=aspect.pronoun)
    negated = rng.random() < 0.4
    return _gradable_clause(rng, language, domain, again, positive=positive, negated=negated)


def _plain_clause(
    rng: random.Random, language: Language, domain: Domain, aspect: Aspect, *, positive: bool
) -> str:
    """A clause without negation: mostly gradable words, else a strong word or an event."""
    choice = rng.random()
    if choice < 0.2:
        return rng.choice(domain.good_events if positive else domain.bad_events)
    if choice < 0.4:
        word = rng.choice(language.strong_good if positive else language.strong_bad)
        return _clause(rng.choice(language.strong_forms), domain, aspect, word)
    return _gradable_clause(rng, language, domain, aspect, positive=positive, negated=False)


def _any_clause(
    rng: random.Random,
    language: Language,
    domain: Domain,
    aspect: Aspect,
    *,
    positive: bool,
    negation_share: float,
) -> str:
    """A clause that is negated with probability ``negation_share``."""
    if rng.random() < negation_share:
        return _gradable_clause(rng, language, domain, aspect, positive=positive, negated=True)
    return _plain_clause(rng, language, domain, aspect, positive=positive)


def _verdicts(rng: random.Random, language: Language, count: int, *, positive: bool) -> list[str]:
    """Different closing judgements; only the last can be a question."""
    verdicts = language.good_verdicts if positive else language.bad_verdicts
    return sorted(rng.sample(verdicts, count), key=lambda verdict: verdict[-1] in "?？")


def _capitalized(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def _joined(rng: random.Random, language: Language, clauses: Sequence[str]) -> str:
    """Joins clauses of one polarity."""
    text = clauses[0]
    for clause in clauses[1:]:
        joint = rng.choice(language.joints)
        text += joint + (_capitalized(clause) if joint == ". " else clause)
    return text


def _plain_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """One to three clauses of one polarity, without negation."""
    aspects = rng.sample(domain.aspects, rng.choice((1, 2, 2, 3)))
    clauses = [_plain_clause(rng, language, domain, each, positive=positive) for each in aspects]
    core = [_joined(rng, language, list(dict.fromkeys(clauses)))]
    if rng.random() < 0.45:
        core += _verdicts(rng, language, 1, positive=positive)
    return core


def _negated_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """One or two clauses of one polarity, of which one at least is negated."""
    first, second = rng.sample(domain.aspects, 2)
    clauses = [_gradable_clause(rng, language, domain, first, positive=positive, negated=True)]
    if rng.random() < 0.6:
        clauses.append(
            _any_clause(rng, language, domain, second, positive=positive, negation_share=0.4)
        )
        rng.shuffle(clauses)
    core = [_joined(rng, language, clauses)]
    if rng.random() < 0.15:
        core += _verdicts(rng, language, 1, positive=positive)
    return core


def _contrast_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """Two opposed clauses, of which the form lets one decide."""
    conceded, decisive = rng.sample(domain.aspects, 2)
    if rng.random() < HEDGED_SHARE:
        word = rng.choice(conceded.bad if positive else conceded.good)
        form = rng.choice(language.conceded_bad_forms if positive else language.conceded_good_forms)
        x = _clause(form, domain, conceded, word)
    else:
        negated = rng.random() < 0.1
        x = _gradable_clause(
            rng, language, domain, conceded, positive=not positive, negated=negated
        )
    inner, last = _verdicts(rng, language, 2, positive=positive)
    if rng.random() < 0.35:
        y = inner
    else:
        y = _any_clause(rng, language, domain, decisive, positive=positive, negation_share=0.1)
    core = [rng.choice(language.contrast_forms).format(x=x, y=y)]
    if rng.random() < 0.2:
        core.append(last)
    return core


def _weighed_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool, ambiguous: bool
) -> list[str]:
    """Praise and criticism side by side; a verdict decides unless ``ambiguous``."""
    praised, criticized = rng.sample(domain.aspects, 2)
    praise = _plain_clause(rng, language, domain, praised, positive=True)
    criticism = _plain_clause(rng, language, domain, criticized, positive=False)
    if ambiguous:
        return [rng.choice(language.ambiguous_forms).format(p=praise, c=criticism)]
    first, second = _verdicts(rng, language, 2, positive=positive)
    return [rng.choice(language.weighed_forms).format(p=praise, c=criticism, v=first), second]


def _short_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """One clause or verdict within the bounds of a very short row, its last mark included."""
    least, greatest = language.short_length
    while True:
        if rng.random() < 0.2:
            text = _verdicts(rng, language, 1, positive=positive)[0]
        else:
            aspect = rng.choice(domain.aspects)
            text = _any_clause(
                rng, language, domain, aspect, positive=positive, negation_share=0.25
            )
        length = len(text.split()) if language.space else len(text) + 1
        if least <= length <= greatest:
            return [text]


def _long_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """Many sentences: most aspects share the row's polarity, one or two oppose it."""
    length = min(rng.randint(*language.long_length) for _ in range(2))
    opposed = rng.choice(domain.aspects)
    neutral = rng.sample(domain.details, len(domain.details))
    core = [_fill(rng, language.code, rng.choice(domain.openers))]
    while sum(map(len, core)) < length:
        for aspect in rng.sample(domain.aspects, len(domain.aspects)):
            opinion = positive is not (aspect is opposed)
            clause = _any_clause(
                rng, language, domain, aspect, positive=opinion, negation_share=0.2
            )
            if clause.startswith(aspect.subject) and rng.random() < 0.6:
                more = _second_clause(rng, language, domain, aspect, positive=opinion)
                clause = _joined(rng, language, (clause, more))
            if clause not in core and sum(map(len, core)) < length:
                core.append(clause)
                if neutral and rng.random() < 0.35:
                    core.append(_fill(rng, language.code, neutral.pop()))
    core += _verdicts(rng, language, 1, positive=positive)
    return core


def _core(
    rng: random.Random, language: Language, domain: Domain, kind: str, *, positive: bool
) -> list[str]:
    """The sentences that carry the sentiment, without their end marks."""
    if kind in ("weighed", "ambiguous"):
        return _weighed_core(
            rng, language, domain, positive=positive, ambiguous=kind == "ambiguous"
        )
    make = {
        "plain": _plain_core,
        "negated": _negated_core,
        "contrast": _contrast_core,
        "short": _short_core,
        "long": _long_core,
    }[kind]
    return make(rng, language, domain, positive=positive)


def _with_neutral_sentences(
    rng: random.Random,
    language: Language,
    domain: Domain,
    core: list[str],
    plan: _Plan,
) -> list[str]:
    """Adds sentences without sentiment before and after the core."""

    def quoting(opening: str, closing: str) -> str:
        name = opening + rng.choice(domain.quoted) + closing
        return _fill(rng, language.code, domain.quoting.replace("{quoted}", name))

    before, after = [], []
    if "full_width_digits" in plan.decorations:
        numeric = [each for each in domain.openers + domain.details if NUMERIC_SLOT.search(each)]
        before.append(_fill(rng, language.code, rng.choice(numeric)))
    elif plan.kind != "long" and rng.random() < OPENER_SHARE:
        before.append(_fill(rng, language.code, rng.choice(domain.openers)))
    if plan.kind != "long" and rng.random() < DETAIL_SHARE:
        after.append(_fill(rng, language.code, rng.choice(domain.details)))
    if "foreign" in plan.decorations:
        after.append(_fill(rng, language.code, rng.choice(domain.foreign)))
    if "accented" in plan.decorations:
        before.append(_fill(rng, language.code, rng.choice(domain.accented)))
    if "curly_quotes" in plan.decorations:
        rng.choice((before, after)).append(quoting("“", "”"))
    if "unclosed_quote" in plan.decorations:
        rng.choice((before, after)).append(quoting('"', ""))
    if "quoted_start" in plan.decorations:
        before.insert(0, quoting('"', '"'))
    return [*before, *core, *after]


def _closed(
    rng: random.Random, language: Language, sentences: Sequence[str], *, ellipsis: bool
) -> list[str]:
    """Gives each sentence its end mark and a capital."""
    closed = []
    for number, sentence in enumerate(sentences, start=1):
        end = rng.choice(language.ends if number == len(sentences) else language.breaks)
        if number == len(sentences) and ellipsis:
            end = "……"
        elif sentence[-1] in "?？":
            end = ""
        closed.append(_capitalized(sentence) + end)
    return closed


def _emoji(rng: random.Random, *, positive: bool, sequence: bool) -> str:
    """An emoji in keeping with the sentiment, or a neutral one."""
    if sequence:
        if rng.random() < NEUTRAL_SEQUENCE_SHARE:
            return rng.choice(NEUTRAL_SEQUENCES)
        return rng.choice(GOOD_SEQUENCES if positive else BAD_SEQUENCES)
    if rng.random() < RARE_EMOJI_SHARE:
        return rng.choice(RARE_EMOJI)
    return rng.choice(GOOD_EMOJI if positive else BAD_EMOJI)


def _recased(rng: random.Random, text: str) -> str:
    """Shouts one word, or all of them, or drops the capitals."""
    choice = rng.random()
    if choice < 0.2:
        return text.lower()
    if choice < 0.3:
        return text.upper()
    words = list(re.finditer(r"\b[A-Za-z]{3,}\b", text))
    word = rng.choice([each for each in words if each[0].lower() in SHOUTED] or words)
    return text[: word.start()] + word[0].upper() + text[word.end() :]


def _text(rng: random.Random, code: str, plan: _Plan, *, positive: bool) -> str:
    """The text of one row."""
    language = LANGUAGES[code]
    domain = rng.choice(language.domains)
    sentences = _core(rng, language, domain, plan.kind, positive=positive)
    if plan.kind != "short":
        sentences = _with_neutral_sentences(rng, language, domain, sentences, plan)
    sentences = _closed(rng, language, sentences, ellipsis="ellipsis" in plan.decorations)
    for decoration in ("emoji", "emoji_sequence"):
        if decoration in plan.decorations:
            emoji = _emoji(rng, positive=positive, sequence=decoration == "emoji_sequence")
            place = rng.randrange(len(sentences))
            sentences[place] += rng.choice(("", language.space)) + emoji
    text = language.space.join(sentences)
    if "casing" in plan.decorations:
        text = _recased(rng, text)
    if "full_width_digits" in plan.decorations:
        text = text.translate(FULL_WIDTH_DIGITS)
    return text


def _plans(rng: random.Random, code: str, size: int) -> list[_Plan]:
    """Plans for ``size`` rows of one language and label, with exact shares of everything."""
    kinds = [kind for kind, share in KIND_SHARES[code].items() for _ in range(round(share * size))]
    kinds += ["plain"] * (size - len(kinds))
    decorations: list[set[str]] = [set() for _ in kinds]
    decorable = [number for number, kind in enumerate(kinds) if kind != "short"]
    for group in DECORATION_SHARES[code]:
        free = rng.sample(decorable, len(decorable))
        for decoration, share in group.items():
            for _ in range(round(share * size)):
                decorations[free.pop()].add(decoration)
    clear = [number for number, kind in enumerate(kinds) if kind != "ambiguous"]
    mislabelled = set(rng.sample(clear, round(MISLABELLED_SHARE * size)))
    return [
        _Plan(kind, frozenset(decorations[number]), number in mislabelled)
        for number, kind in enumerate(kinds)
    ]


def leakage_key(text: str) -> str:
    """What two texts must not have in common: their letters and digits, case folded.

    Spaces, punctuation, emoji and the width of characters make no difference.
    """
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def generate_rows() -> dict[str, list[Row]]:
    """Makes all rows.

    Returns:
        The rows of each split of ``SPLIT_SIZES``. No two rows of any splits have the same
        ``leakage_key``; the languages and the labels are balanced.
    """
    rng = random.Random(SEED)
    seen: set[str] = set()
    splits = {}
    for split, size in SPLIT_SIZES.items():
        rows = []
        for code in LANGUAGES:
            for label, opposite in ((NEGATIVE, POSITIVE), (POSITIVE, NEGATIVE)):
                for plan in _plans(rng, code, size // 4):
                    text = _text(rng, code, plan, positive=label == POSITIVE)
                    while leakage_key(text) in seen:
                        text = _text(rng, code, plan, positive=label == POSITIVE)
                    seen.add(leakage_key(text))
                    rows.append(Row(opposite if plan.mislabelled else label, text, code))
        rng.shuffle(rows)
        splits[split] = rows
    return splits


def _is_punctuation(character: str) -> bool:
    """Whether BERT splits at the character: ASCII symbols count, other symbols do not."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def _is_cjk(character: str) -> bool:
    """Whether BERT takes the character for a word of its own."""
    return any(first <= ord(character) <= last for first, last in CJK_BLOCKS)


def pretokenize(text: str) -> list[str]:
    """Splits a text into words as uncased BERT does before WordPiece.

    Source: ``BasicTokenizer`` in google-research/bert, ``tokenization.py``.

    Args:
        text: any text.

    Returns:
        Lower-cased words without accents and control characters; each punctuation mark and
        each CJK character is a word.
    """
    spaced = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif _is_cjk(character):
            spaced.append(f" {character} ")
        elif category not in ("Cc", "Cf") and character != "\ufffd":
            spaced.append(character)
    words = []
    for chunk in "".join(spaced).split():
        bare = "".join(
            character
            for character in unicodedata.normalize("NFD", chunk.lower())
            if unicodedata.category(character) != "Mn"
        )
        marked = "".join(f" {each} " if _is_punctuation(each) else each for each in bare)
        words += marked.split()
    return words


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """Makes a WordPiece vocabulary out of counts.

    Args:
        texts: the texts to count in.

    Returns:
        The special tokens; the characters that are seen often enough at the start of a word,
        and (with ``##``) inside of one; frequent words; endings that many words share.
        Characters seen less often stay unknown.
    """
    words = Counter(word for text in texts for word in pretokenize(text))
    characters: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    for word, count in words.items():
        characters[word[0]] += count
        for character in word[1:]:
            characters["##" + character] += count
        endings.update("##" + word[-length:] for length in SUFFIX_LENGTHS if len(word) > length + 1)
    frequent = [word for word, count in words.items() if len(word) > 1 and count >= MIN_WORD_COUNT]
    return [
        *SPECIAL_TOKENS,
        *sorted(piece for piece, count in characters.items() if count >= MIN_CHARACTER_COUNT),
        *sorted(frequent, key=lambda word: (-words[word], word)),
        *sorted(piece for piece, count in endings.items() if count >= MIN_SUFFIX_WORDS),
    ]


def write_sample(folder: Path) -> None:
    """Writes the three TSV files and the vocabulary.

    Args:
        folder: an existing folder; files of these names are overwritten.
    """
    splits = generate_rows()
    for split, rows in splits.items():
        lines = [HEADER, *("\t".join(row) for row in rows)]
        _write_lines(folder / f"{split}.tsv", lines)
    _write_lines(folder / "vocab.txt", build_vocabulary(row.text for row in splits["train"]))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes UTF-8 lines that end with a line feed on every platform."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))


if __name__ == "__main__":
    write_sample(Path(__file__).parent)
