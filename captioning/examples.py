"""Worked examples: answers that the model is shown, and that the tests hold to our own lint."""

from captioning.schema import Background, Camera, Caption, Movement, Subject

SPEAKER = Caption(
    camera=Camera(angle="eye level", shot="medium close-up", movement="static"),
    subjects=[
        Subject(
            label="the man in the grey jacket",
            appearance="a middle-aged man with short black hair, a trimmed beard and light brown skin",
            clothing="a charcoal grey jacket over a white open-necked shirt",
            accessories=["thin-rimmed glasses", "a small microphone on the left lapel"],
            position="sits behind a wooden table in the centre of the picture, facing the camera",
            movements=[
                Movement(
                    body_parts=["both hands"], action="lifts both hands from the table with the palms facing each other"
                ),
                Movement(body_parts=["head"], action="tilts the head to the left and nods twice"),
                Movement(body_parts=["right hand"], action="taps the table with the right index finger three times"),
                Movement(body_parts=["eyes", "head"], action="looks down at the table, then back into the lens"),
            ],
            speech="speaking",
        )
    ],
    interactions=[],
    background=Background(
        place="an indoor room with bookshelves",
        architecture="a white plaster wall and dark wooden shelves from floor to ceiling",
        objects=["rows of books", "a brass desk lamp", "a framed map"],
        colours=["dark brown", "white", "brass yellow"],
        greenery="a potted fern on the lowest shelf",
    ),
    lighting="soft light from the left, with a shadow on the right side of the face",
)
PAIR = Caption(
    camera=Camera(angle="low angle", shot="full shot", movement="pans right"),
    subjects=[
        Subject(
            label="the girl with the guitar",
            appearance="a teenage girl with long red hair and freckles",
            clothing="a yellow raincoat, blue jeans and black boots",
            accessories=["an acoustic guitar on a woven strap"],
            position="stands on stone steps on the left, turned halfway towards the boy",
            movements=[
                Movement(
                    body_parts=["right hand", "fingers"], action="strums the strings downwards with the right hand"
                ),
                Movement(body_parts=["left hand"], action="slides the left hand along the neck of the guitar"),
                Movement(body_parts=["mouth"], action="opens the mouth wide and closes the eyes"),
            ],
            speech="singing",
        ),
        Subject(
            label="the boy in the striped jumper",
            appearance="a boy of about ten years with curly brown hair and dark brown skin",
            clothing="a navy and white striped jumper and beige shorts",
            accessories=[],
            position="sits two steps lower on the right, with the back against the railing",
            movements=[
                Movement(body_parts=["both hands"], action="claps the hands in front of the chest"),
                Movement(body_parts=["head", "torso"], action="turns the upper body towards the girl and smiles"),
            ],
            speech="silent",
        ),
    ],
    interactions=["The boy hands a plectrum to the girl, who takes it with the right hand."],
    background=Background(
        place="a narrow street with stone steps",
        architecture="three-storey brick houses with arched windows and green shutters",
        objects=["an iron railing", "a parked bicycle"],
        colours=["brick red", "moss green", "wet grey"],
        greenery="ivy that covers the wall on the left",
    ),
    lighting="even daylight under an overcast sky",
)
EXAMPLES = (SPEAKER, PAIR)
