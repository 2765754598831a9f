"""The multilingual area's words: facts and wordings in English, Chinese, Spanish, Arabic and Japanese."""

from __future__ import annotations

LANGUAGES = ("en", "zh", "es", "ar", "ja")

CAPITALS = """
France:Paris|法国:巴黎|Francia:París|فرنسا:باريس|フランス:パリ
Germany:Berlin|德国:柏林|Alemania:Berlín|ألمانيا:برلين|ドイツ:ベルリン
Spain:Madrid|西班牙:马德里|España:Madrid|إسبانيا:مدريد|スペイン:マドリード
Italy:Rome|意大利:罗马|Italia:Roma|إيطاليا:روما|イタリア:ローマ
Japan:Tokyo|日本:东京|Japón:Tokio|اليابان:طوكيو|日本:東京
China:Beijing|中国:北京|China:Pekín|الصين:بكين|中国:北京
Egypt:Cairo|埃及:开罗|Egipto:El Cairo|مصر:القاهرة|エジプト:カイロ
Greece:Athens|希腊:雅典|Grecia:Atenas|اليونان:أثينا|ギリシャ:アテネ
Russia:Moscow|俄罗斯:莫斯科|Rusia:Moscú|روسيا:موسكو|ロシア:モスクワ
Cuba:Havana|古巴:哈瓦那|Cuba:La Habana|كوبا:هافانا|キューバ:ハバナ
Peru:Lima|秘鲁:利马|Perú:Lima|بيرو:ليما|ペルー:リマ
Turkey:Ankara|土耳其:安卡拉|Turquía:Ankara|تركيا:أنقرة|トルコ:アンカラ
Iran:Tehran|伊朗:德黑兰|Irán:Teherán|إيران:طهران|イラン:テヘラン
Poland:Warsaw|波兰:华沙|Polonia:Varsovia|بولندا:وارسو|ポーランド:ワルシャワ
"""

COLOURS = """
grass:green|草:绿色|la hierba:verde|العشب:أخضر|草:緑
snow:white|雪:白色|la nieve:blanco|الثلج:أبيض|雪:白
coal:black|煤:黑色|el carbón:negro|الفحم:أسود|石炭:黒
blood:red|血:红色|la sangre:rojo|الدم:أحمر|血:赤
a lemon:yellow|柠檬:黄色|el limón:amarillo|الليمون:أصفر|レモン:黄色
the clear sky:blue|晴天的天空:蓝色|el cielo despejado:azul|السماء الصافية:أزرق|晴れた空:青
"""

LEGS = """
dog:4|狗:4|un perro:4|الكلب:4|犬:4
duck:2|鸭子:2|un pato:2|البطة:2|アヒル:2
spider:8|蜘蛛:8|una araña:8|العنكبوت:8|クモ:8
ant:6|蚂蚁:6|una hormiga:6|النملة:6|アリ:6
snake:0|蛇:0|una serpiente:0|الأفعى:0|ヘビ:0
crab:10|螃蟹:10|un cangrejo:10|السلطعون:10|カニ:10
"""

OPPOSITES = """
hot:cold|热:冷|caliente:frío|حار:بارد|暑い:寒い
big:small|大:小|grande:pequeño|كبير:صغير|大きい:小さい
fast:slow|快:慢|rápido:lento|سريع:بطيء|速い:遅い
day:night|白天:黑夜|día:noche|نهار:ليل|昼:夜
rich:poor|富:穷|rico:pobre|غني:فقير|豊か:貧しい
strong:weak|强:弱|fuerte:débil|قوي:ضعيف|強い:弱い
"""

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "capital": {
        "en": (
            "What is the capital of {a}?",
            "Which city is the capital of {a}?",
            "Name the capital of {a}.",
        ),
        "zh": ("{a}的首都是哪里？", "{a}的首都是哪个城市？", "请说出{a}的首都。"),
        "es": ("¿Cuál es la capital de {a}?", "¿Qué ciudad es la capital de {a}?", "Di la capital de {a}."),
        "ar": ("ما هي عاصمة {a}؟", "أي مدينة هي عاصمة {a}؟", "اذكر عاصمة {a}."),
        "ja": ("{a}の首都はどこですか？", "{a}の首都はどの都市ですか？", "{a}の首都を答えてください。"),
    },
    "colour": {
        "en": ("What colour is {a}?", "Name the colour of {a}.", "Tell me what colour {a} is."),
        "zh": ("{a}是什么颜色？", "请说出{a}的颜色。", "告诉我{a}的颜色。"),
        "es": ("¿De qué color es {a}?", "¿Qué color tiene {a}?", "Di de qué color es {a}."),
        "ar": ("ما لون {a}؟", "اذكر لون {a}.", "قل لي ما لون {a}."),
        "ja": ("{a}は何色ですか？", "{a}の色は何ですか？", "{a}の色を答えてください。"),
    },
    "legs": {
        "en": ("How many legs does a {a} have?", "A {a} has how many legs?", "Count the legs of one {a}."),
        "zh": ("{a}有几条腿？", "{a}有多少条腿？", "请说出{a}有几条腿。"),
        "es": ("¿Cuántas patas tiene {a}?", "¿Qué número de patas tiene {a}?", "Di cuántas patas tiene {a}."),
        "ar": ("كم عدد أرجل {a}؟", "ما عدد أرجل {a}؟", "اذكر عدد أرجل {a}."),
        "ja": ("{a}の足は何本ですか？", "{a}には足が何本ありますか？", "{a}の足の数を答えてください。"),
    },
    "opposite": {
        "en": (
            "What is the opposite of {a}?",
            "Name the opposite of {a}.",
            "Which word means the opposite of {a}?",
        ),
        "zh": ("“{a}”的反义词是什么？", "请说出“{a}”的反义词。", "哪个词和“{a}”相反？"),
        "es": (
            "¿Cuál es lo contrario de {a}?",
            "Di lo contrario de {a}.",
            "¿Qué palabra es lo opuesto de {a}?",
        ),
        "ar": ("ما عكس {a}؟", "اذكر عكس {a}.", "ما هي الكلمة المعاكسة لكلمة {a}؟"),
        "ja": (
            "「{a}」の反対は何ですか？",
            "「{a}」の反対の言葉を答えてください。",
            "「{a}」の逆は何ですか？",
        ),
    },
    "add": {
        "en": ("What is {a} plus {b}?", "Add {a} and {b}."),
        "zh": ("{a}加{b}等于多少？", "请计算{a}加{b}。"),
        "es": ("¿Cuánto es {a} más {b}?", "Suma {a} y {b}."),
        "ar": ("كم يساوي {a} زائد {b}؟", "اجمع {a} و {b}."),
        "ja": ("{a}たす{b}はいくつですか？", "{a}と{b}を足してください。"),
    },
    "sub": {
        "en": ("What is {a} minus {b}?", "Subtract {b} from {a}."),
        "zh": ("{a}减{b}等于多少？", "请计算{a}减{b}。"),
        "es": ("¿Cuánto es {a} menos {b}?", "Resta {b} de {a}."),
        "ar": ("كم يساوي {a} ناقص {b}؟", "اطرح {b} من {a}."),
        "ja": ("{a}ひく{b}はいくつですか？", "{a}から{b}を引いてください。"),
    },
}

SENTENCES: dict[str, dict[str, str]] = {
    "capital": {
        "en": "The capital of {a} is {b}.",
        "zh": "{a}的首都是{b}。",
        "es": "La capital de {a} es {b}.",
        "ar": "عاصمة {a} هي {b}.",
        "ja": "{a}の首都は{b}です。",
    },
    "colour": {
        "en": "The colour of {a} is {b}.",
        "zh": "{a}是{b}。",
        "es": "El color de {a} es {b}.",
        "ar": "لون {a} هو {b}.",
        "ja": "{a}の色は{b}です。",
    },
    "legs": {
        "en": "A {a} has {b} legs.",
        "zh": "{a}有{b}条腿。",
        "es": "El número de patas de {a} es {b}.",
        "ar": "عدد أرجل {a} هو {b}.",
        "ja": "{a}の足は{b}本です。",
    },
    "opposite": {
        "en": "{a} and {b} are opposites.",
        "zh": "“{a}”和“{b}”相反。",
        "es": "{a} y {b} son contrarios.",
        "ar": "{a} عكس {b}.",
        "ja": "「{a}」と「{b}」は反対です。",
    },
}
